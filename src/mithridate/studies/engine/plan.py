"""From a study to a graph of units: what is to be done, what is done, and what it will cost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.errors import InputError, MithridateError, unknown
from mithridate.rng import rng
from mithridate.studies.engine.cells import Cell, cells
from mithridate.studies.engine.perform import maker_of
from mithridate.studies.engine.spec import Spec, in_keys, validated
from mithridate.studies.engine.store import Store
from mithridate.studies.engine.unit import Unit
from mithridate.studies.units.data import Data
from mithridate.studies.units.model import ModelUnit
from mithridate.training import fit

U = TypeVar("U", bound=Unit[Any])
BATCH = 128
REPEATS = 5


@dataclass
class Plan:
    """A study's cells and units.

    Attributes:
        leaves: cell and the unit that measures it.
        refused: cells that cannot be measured, and why, where the spec is a verb's.
        order: every unit, each after those that it needs.
        users: key -> ids of the cells that need the unit.
    """

    spec: Spec
    leaves: list[tuple[Cell, Unit[Any]]] = field(default_factory=list)
    refused: list[tuple[Cell, str]] = field(default_factory=list)
    order: list[Unit[Any]] = field(default_factory=list)
    users: dict[str, list[str]] = field(default_factory=dict)

    @property
    def cells(self) -> list[Cell]:
        """Every cell, in the study's order."""
        leaves = [(cell.number, cell) for cell, _ in (*self.leaves, *self.refused)]
        return [cell for _, cell in sorted(leaves, key=lambda pair: pair[0])]

    def missing(self, store: Store) -> list[Unit[Any]]:
        """Units to be made, in order: those that some unfinished cell waits for.

        A finished measurement needs nothing any more, even where its inputs were trimmed.
        """
        wanted: set[str] = set()
        waiting = [unit for _, unit in self.leaves]
        while waiting:
            unit = waiting.pop()
            if unit.key in wanted or store.has(unit.key):
                continue
            wanted.add(unit.key)
            waiting += unit.parents()
        return [u for u in self.order if u.key in wanted and u.stored]


def plan_of(spec: Spec) -> Plan:
    """Every cell's unit, and every unit that these need, once.

    Raises:
        InputError: a cell with an unknown setting, a value out of range, or a component that
            does not exist; the line names the cell. A verb's study (`spec.preset`) goes on
            without it, unless no cell of that matrix can be measured.
    """
    spec = spec.model_copy(update={"device": str(place(spec.device))})
    plan = Plan(spec)
    seen: dict[str, Unit[Any]] = {}
    for cell in cells(spec):
        try:
            leaf = _share(_unit_of(cell), seen, plan.order)
        except (InputError, ImportError) as error:
            if not spec.preset:
                raise
            broken = "cannot be imported: " if isinstance(error, ImportError) else ""
            plan.refused.append((cell, f"{broken}{error}"))
            continue
        plan.leaves.append((cell, leaf))
        _note(leaf, cell.id, plan.users)
    for cell, reason in plan.refused:
        if not any(other.matrix == cell.matrix for other, _ in plan.leaves):
            raise InputError(reason)
    if not plan.leaves:
        raise InputError(f"the study {spec.name} has no cells: its matrices exclude everything")
    return plan


def place(device: str) -> torch.device:
    """The device to use; "auto" takes CUDA where it works.

    Raises:
        InputError: no such device, or CUDA was asked for and is not there.
    """
    works = torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda"):
        raise unknown("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not works:
        raise InputError("device cuda: torch finds no usable CUDA device here: use cpu")
    return torch.device("cuda" if works and device != "cpu" else "cpu")


def _unit_of(cell: Cell) -> Unit[Any]:
    measure = component.find("measures", cell.measure)()
    labels = ", ".join(f"{axis} {label}" for axis, label in cell.labels.items())
    where = f"cell {cell.id} ({labels})" if labels else f"cell {cell.id}"
    try:
        unit: Unit[Any] = measure.unit(validated(measure.settings, cell.settings, where))
        return unit
    except MithridateError as error:
        text = str(error) if cell.verb else in_keys(str(error))
        named = where in text or cell.verb
        raise type(error)(text if named else f"{where}: {text}") from None


def _share(unit: Unit[Any], seen: dict[str, Unit[Any]], order: list[Unit[Any]]) -> Unit[Any]:
    """The one unit of this key, after those that it needs."""
    if unit.key in seen:
        return seen[unit.key]
    for parent in unit.parents():
        _share(parent, seen, order)
    seen[unit.key] = unit
    order.append(unit)
    return unit


def _note(unit: Unit[Any], cell: str, users: dict[str, list[str]]) -> None:
    """Write the cell down with every unit that it rests on."""
    waiting, done = [unit], set()
    while waiting:
        one = waiting.pop()
        if one.key not in done:
            done.add(one.key)
            users.setdefault(one.key, []).append(cell)
            waiting += one.parents()


@dataclass(frozen=True)
class Estimate:
    """What a plan will take, from a short measurement on this machine.

    Attributes:
        units: kind -> (new, found in the store).
        forwards, gradients, trained: images that the new units pass through their networks.
        seconds: on one worker.
        memory: of the largest new unit, bytes.
        disk: of the new products, bytes.
    """

    cells: int
    units: dict[str, tuple[int, int]]
    forwards: int
    gradients: int
    trained: int
    seconds: float
    memory: int
    disk: int


class Speed:
    """Seconds per image of a model: forward, with input gradient, and trained."""

    def __init__(self, model: Classifier, shape: tuple[int, int, int]) -> None:
        self.gradient = self.train = 0.0
        if "seconds" in model.info:  # of a service: each image that it is asked about is a query
            self.forward = float(model.info["seconds"])
            return
        x = torch.full((BATCH, *shape), 0.5)
        goal = _Zero()
        grey = ImageSet((x * 255).byte(), [0] * BATCH, model.class_names)
        self.forward = _seconds(lambda: model.labels(x))
        if not model.gradients:
            return
        self.gradient = _seconds(lambda: model.gradient(x, goal))
        self.train = _seconds(lambda: fit(model, grey, epochs=1, rng=rng(0)))


class _Zero:
    """The sum of the logits, an objective for timing."""

    def loss(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.sum(1)

    def __getitem__(self, rows: slice) -> _Zero:
        return self


def _seconds(work: Any) -> float:
    work()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return sorted(times)[REPEATS // 2] / BATCH


def estimate(plan: Plan, store: Store) -> Estimate:
    """Measure each network for a moment, and add up what the missing units will ask of it."""
    missing = plan.missing(store)
    new = Counter(unit.kind for unit in missing)
    every = Counter(u.kind for u in plan.order if u.stored)
    total, seconds, memory = Work(disk=0), 0.0, 0
    sizes: dict[str, tuple[Sizes, tuple[int, int, int]]] = {}
    speeds: dict[str, Speed] = {}
    before = torch.get_num_threads()
    torch.set_num_threads(plan.spec.threads)
    maker = maker_of(store.root)
    for unit in missing:
        memory = max(memory, unit.needs().memory)
        data = _nearest(unit, Data)
        if data is None:
            continue
        if data.key not in sizes:
            sets = maker.opened(data)
            size = Sizes(len(sets.train), len(sets.test), sets.train.classes)
            sizes[data.key] = (size, sets.train.image_shape)
        size, shape = sizes[data.key]
        work = unit.work(size)
        total = Work(*(a + b for a, b in zip(total, work, strict=True)))
        model = _nearest(unit, ModelUnit)  # type: ignore[type-abstract]
        if model is None:
            continue
        name = model.architecture(shape)
        if name not in speeds:
            speeds[name] = Speed(model.blank(shape, size.classes, maker.opened), shape)
        speed = speeds[name]
        seconds += work.forwards * speed.forward + work.gradients * speed.gradient
        seconds += work.trained * speed.train
    torch.set_num_threads(before)
    return Estimate(
        cells=len(plan.leaves),
        units={kind: (new[kind], every[kind] - new[kind]) for kind in every},
        forwards=total.forwards,
        gradients=total.gradients,
        trained=total.trained,
        seconds=seconds,
        memory=memory,
        disk=total.disk,
    )


def _nearest(unit: Unit[Any], kind: type[U]) -> U | None:
    """The unit itself or the nearest below it of that kind."""
    waiting: Iterable[Unit[Any]] = [unit]
    while waiting:
        for one in waiting:
            if isinstance(one, kind):
                return one
        waiting = [parent for one in waiting for parent in one.parents()]
    return None
