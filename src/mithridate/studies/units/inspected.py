"""What inspections share, as units: bias maps of a model, and the calibrated clean side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from mithridate.classifier import Classifier
from mithridate.component import Choice
from mithridate.cost import Sizes, Work
from mithridate.defenses.inspect import (
    CleanSide,
    Inspector,
    MapSet,
    algorithm_one,
    algorithm_two,
    calibrate,
    probes,
)
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
class Calibrated(Unit[CleanSide]):
    """The clean side of verdicts: each clean model put through the inspectors against the others.

    Calibrated once, for every suspect.
    """

    kind: ClassVar = "calibration"
    memory: ClassVar = 2 * 2**30

    models: tuple[Unit[Classifier], ...]
    data: Data
    inspectors: tuple[Choice, ...]
    seed: int
    stream: tuple[str, ...] = ()

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        side = calibrate(
            [choice.make() for choice in self.inspectors],
            [get(model) for model in self.models],
            get(self.data).test,
            rng=child(rng(self.seed), *self.stream) if self.stream else rng(self.seed),
            progress=tell,
        )
        write_tensors(folder / FILE, side.tensors(), {"kind": "calibration"})
        return side.values()

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> CleanSide:
        tensors, _ = read_tensors(folder / FILE)
        return CleanSide.of([get(model) for model in self.models], values, tensors)

    def work(self, sizes: Sizes) -> Work:
        """Maps and a search for each model."""
        gradients = sum(inspecting(choice, sizes) for choice in self.inspectors)
        return Work(gradients=len(self.models) * gradients, disk=len(self.models) * 2**16)


def inspecting(choice: Choice, sizes: Sizes) -> int:
    """About how many images one inspection differentiates."""
    inspector: Inspector = choice.make()
    return inspector.cost(sizes).gradients
