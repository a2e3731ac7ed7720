"""What inspections share, as units: bias maps of a model, and the calibrated clean side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import Choice
from mithridate.cost import Sizes, Work
from mithridate.defenses.inspect import (
    LOOKED_AT,
    CleanSide,
    MapSet,
    algorithm_one,
    algorithm_two,
    calibrate,
    probes,
)
from mithridate.defenses.inspect.base import Look
from mithridate.networks.storage import read_tensors, write_tensors
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.units.data import Data

FILE = "maps.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class Maps(Unit[MapSet]):
    """Algorithm I or II of Borji 2020 on `model`, probes from the test images of `data`."""

    kind: ClassVar = "maps"

    model: Unit[Classifier]
    data: Data
    algorithm: Literal[1, 2]
    probe: Literal["blank", "noise", "data"]
    eps: float
    steps: int
    samples: int
    seed: int

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        model, test = get(self.model), get(self.data).test
        images = probes(self.probe, test, self.samples, rng(self.seed))
        if self.algorithm == 1:
            maps = algorithm_one(model, images, eps=self.eps, steps=self.steps)
        else:
            every = pairs(model.classes)
            maps = algorithm_two(model, images, every, eps=self.eps, steps=self.steps)
        write_tensors(folder / FILE, dict(maps.tensors()), {"kind": "maps"})
        return {"queries": maps.cost.queries, "gradients": maps.cost.gradients}

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> MapSet:
        """The maps, without what they cost; Algorithm II's have a row per pair, as `pairs`."""
        tensors, _ = read_tensors(folder / FILE)
        return MapSet.of(tensors)

    def work(self, sizes: Sizes) -> Work:
        """One gradient per probe, goal and step."""
        goals = sizes.classes if self.algorithm == 1 else sizes.classes * (sizes.classes - 1)
        images = 1 if self.probe == "blank" else self.samples
        return Work(gradients=images * goals * self.steps, disk=goals * 2**14)


def pairs(classes: int) -> list[tuple[int, int]]:
    """Every (source, target) of different classes.

    >>> pairs(2)
    [(0, 1), (1, 0)]
    """
    return [(s, t) for s in range(classes) for t in range(classes) if s != t]


@dataclass(frozen=True, kw_only=True, eq=False)
class Looked(Unit[tuple[Look, ...]]):
    """What inspectors compute of one model alone: an audit that was cut short goes on from them."""

    kind: ClassVar = "look"
    memory: ClassVar = 2 * 2**30

    model: Unit[Classifier]
    data: Data
    inspectors: tuple[Choice, ...]
    seed: int
    stream: tuple[str, ...] = ()

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        model, test = get(self.model), get(self.data).test
        random = child(rng(self.seed), *self.stream) if self.stream else rng(self.seed)
        tensors = {
            f"{place}.{name}": tensor
            for place, choice in enumerate(self.inspectors)
            for name, tensor in choice.make().look(model, test, rng=random, progress=tell).items()
        }
        write_tensors(folder / FILE, tensors, {"kind": "look"})
        return {}

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> tuple[Look, ...]:
        tensors, _ = read_tensors(folder / FILE)
        looks: list[dict[str, Tensor]] = [{} for _ in self.inspectors]
        for key, tensor in tensors.items():
            place, _, name = key.partition(".")
            looks[int(place)][name] = tensor
        return tuple(looks)

    def work(self, sizes: Sizes) -> Work:
        """The maps."""
        works = [choice.make().look_cost(sizes) for choice in self.inspectors]
        return Work(
            forwards=sum(work.forwards for work in works),
            gradients=sum(work.gradients for work in works),
            disk=2**16,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibrated(Unit[CleanSide]):
    """The clean side of verdicts: each clean model put through the inspectors against the others.

    Calibrated once, for every suspect.

    Attributes:
        looks: of each of the models, in order.
    """

    kind: ClassVar = "calibration"
    version: ClassVar = 2
    memory: ClassVar = 2 * 2**30

    models: tuple[Unit[Classifier], ...]
    looks: tuple[Looked, ...]
    data: Data
    inspectors: tuple[Choice, ...]
    seed: int
    stream: tuple[str, ...] = ()

    @classmethod
    def of(cls, models: tuple[Unit[Classifier], ...], **common: Any) -> Calibrated:
        """The clean side of these models, and what is looked up of each."""
        looks = tuple(Looked(model=model, **common) for model in models)
        return cls(models=models, looks=looks, **common)

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        side = calibrate(
            [choice.make() for choice in self.inspectors],
            [get(model) for model in self.models],
            get(self.data).test,
            rng=child(rng(self.seed), *self.stream) if self.stream else rng(self.seed),
            looks=list(zip(*(get(look) for look in self.looks), strict=True)),
            progress=tell,
        )
        write_tensors(folder / FILE, side.tensors(), {"kind": "calibration"})
        return side.values()

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> CleanSide:
        tensors, _ = read_tensors(folder / FILE)
        return CleanSide.of([get(model) for model in self.models], values, tensors)

    def work(self, sizes: Sizes) -> Work:
        """A search for each model, and its accuracy."""
        whole, looks = inspecting(self.inspectors, sizes), self.looks[0].work(sizes)
        count = len(self.models)
        return Work(
            forwards=count * (whole.forwards - looks.forwards + min(LOOKED_AT, sizes.test)),
            gradients=count * (whole.gradients - looks.gradients),
            disk=count * 2**16,
        )


def inspecting(choices: tuple[Choice, ...], sizes: Sizes) -> Work:
    """About how much one inspection asks of a model."""
    works: list[Work] = [choice.make().cost(sizes) for choice in choices]
    return Work(
        forwards=sum(work.forwards for work in works),
        gradients=sum(work.gradients for work in works),
    )
