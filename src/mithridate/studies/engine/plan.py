"""From a study to a graph of units: what is to be done, what is done, and what it will cost."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from mithridate import component
from mithridate.cost import Sizes, Work
from mithridate.errors import InputError, MithridateError, unknown
from mithridate.studies.engine.cells import Cell, cells
from mithridate.studies.engine.moment import Speed, tried
from mithridate.studies.engine.perform import maker_of
from mithridate.studies.engine.spec import Spec, in_keys, validated
from mithridate.studies.engine.store import Store
from mithridate.studies.engine.unit import Unit, canonical, plain
from mithridate.studies.units.data import Data
from mithridate.studies.units.model import ModelUnit

U = TypeVar("U", bound=Unit[Any])


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
    """The device to use: "auto" takes CUDA where it works, "cuda:1" the second card.

    Raises:
        InputError: no such device, or CUDA was asked for and is not there.

    >>> place("cpu")
    device(type='cpu')
    """
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", device) is None:
        raise unknown("device", device, ("auto", "cpu", "cuda", "cuda:0"))
    works = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if works else "cpu")
    if device != "cpu" and not works:
        raise InputError(
            f"device {device}: torch finds no usable CUDA device here: use --device cpu"
        )
    wanted = torch.device(device)
    if wanted.index is not None and wanted.index >= torch.cuda.device_count():
        raise InputError(f"device {device}: there are {torch.cuda.device_count()}, from cuda:0")
    return wanted


def _unit_of(cell: Cell) -> Unit[Any]:
    measure = component.find("measures", cell.measure)()
    labels = ", ".join(f"{axis} {label}" for axis, label in cell.labels.items())
    where = f"cell {cell.id} ({labels})" if labels else f"cell {cell.id}"
    try:
        given = validated(measure.settings, cell.settings, "" if cell.verb else where)
        unit: Unit[Any] = measure.unit(given)
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
        by_unit: key -> seconds.
    """

    cells: int
    units: dict[str, tuple[int, int]]
    forwards: int
    gradients: int
    trained: int
    seconds: float
    memory: int
    disk: int
    by_unit: dict[str, float] = field(default_factory=dict, repr=False)


def estimate(plan: Plan, store: Store, moments: float = 5.0) -> Estimate:
    """Measure each network and each piece of work for a moment, and add up what is missing.

    Passes are those that the units declare (`Unit.work`). What a pass takes is measured on the
    network (`Speed`); then one unit of each sort is begun (`tried`), since an attack's own
    arithmetic may take longer than the network, and an attack that is done early less than it may.

    Args:
        moments: seconds that units may be tried for, together.
    """
    missing = plan.missing(store)
    new = Counter(unit.kind for unit in missing)
    every = Counter(u.kind for u in plan.order if u.stored)
    total, memory, by_unit = Work(disk=0), 0, {}
    sizes: dict[str, tuple[Sizes, tuple[int, int, int]]] = {}
    speeds: dict[str, Speed] = {}
    factors: dict[tuple[str, ...], float] = {}
    sorts = {(unit.kind, *_sort(unit)) for unit in missing}
    before = torch.get_num_threads()
    torch.set_num_threads(plan.spec.threads)
    maker = maker_of(store.root)
    for unit in missing:
        memory, by_unit[unit.key] = max(memory, unit.needs().memory), 0.0
        data, model = _nearest(unit, Data), _nearest(unit, ModelUnit)  # type: ignore[type-abstract]
        if data is None:
            continue
        if data.key not in sizes:
            sets = maker.opened(data)
            size = Sizes(len(sets.train), len(sets.test), sets.train.classes)
            sizes[data.key] = (size, sets.train.image_shape)
        size, shape = sizes[data.key]
        work = unit.work(size)
        total = Work(*(a + b for a, b in zip(total, work, strict=True)))
        if model is None or not (work.forwards or work.gradients or work.trained):
            continue
        name = model.architecture(shape)
        if name not in speeds:
            speeds[name] = Speed(model.blank(shape, size.classes, maker.opened), shape)
        speed, sort = speeds[name], _sort(unit)
        if (unit.kind, name, *sort) not in factors and moments > 0 and speed.service is None:
            began, moment = time.perf_counter(), min(1.0, moments / max(1, len(sorts)))
            factor = tried(unit, speed, size, shape, maker.opened, moment)
            moments -= time.perf_counter() - began
            sorts.discard((unit.kind, *sort))
            if factor is not None:
                factors[unit.kind, name, *sort] = factors[name, *sort] = factor
        like = factors.get((unit.kind, name, *sort), factors.get((name, *sort), 1.0))
        by_unit[unit.key] = like * speed.of(work)
    torch.set_num_threads(before)
    return Estimate(
        cells=len(plan.leaves),
        units={kind: (new[kind], every[kind] - new[kind]) for kind in every},
        forwards=total.forwards,
        gradients=total.gradients,
        trained=total.trained,
        seconds=sum(by_unit.values()),
        memory=memory,
        disk=total.disk,
        by_unit=by_unit,
    )


def _sort(unit: Unit[Any]) -> tuple[str, ...]:
    """Alike for units that ask a network for the same work."""
    return tuple(canonical(plain(choice)) for choice in unit.choices())


def _nearest(unit: Unit[Any], kind: type[U]) -> U | None:
    """The unit itself or the nearest below it of that kind."""
    waiting: Iterable[Unit[Any]] = [unit]
    while waiting:
        for one in waiting:
            if isinstance(one, kind):
                return one
        waiting = [parent for one in waiting for parent in one.parents()]
    return None
