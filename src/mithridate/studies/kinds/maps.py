"""Bias maps of one model at one setting, as a unit that many comparisons share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mithridate.classifier import Cost
from mithridate.defenses.inspect.base import MapSet
from mithridate.defenses.inspect.maps import algorithm_one, algorithm_two, probes
from mithridate.networks.storage import read_tensors, write_tensors
from mithridate.rng import rng
from mithridate.studies.engine.unit import Inputs, Kind, Progress, Sizes, Unit, Work

FILE = "maps.safetensors"


class MapsKind(Kind):
    """Algorithm I or II on the input `model`, probes from the test images of `data`.

    spec: `algorithm` (1, 2), `probe`, `eps`, `steps`, `samples`, `seed`.
    """

    def make(
        self, spec: Mapping[str, Any], inputs: Inputs, folder: Path, tell: Progress
    ) -> dict[str, Any]:
        """Compute the maps, and keep sums and counts."""
        model, test = inputs["model"], inputs["data"].test
        images = probes(spec["probe"], test, spec["samples"], rng(int(spec["seed"])))
        eps, steps = float(spec["eps"]), int(spec["steps"])
        if spec["algorithm"] == 1:
            maps = algorithm_one(model, images, eps=eps, steps=steps)
        else:
            maps = algorithm_two(model, images, pairs(model.classes), eps=eps, steps=steps)
        write_maps(folder / FILE, maps)
        return {"queries": maps.cost.queries, "gradients": maps.cost.gradients}

    def open(
        self, folder: Path, values: Mapping[str, Any], spec: Mapping[str, Any], inputs: Inputs
    ) -> MapSet:
        """The maps; Algorithm II's have a row per pair, in the order of `pairs`."""
        return read_maps(folder / FILE)

    def work(self, unit: Unit, sizes: Sizes) -> Work:
        """One gradient per probe, goal and step."""
        spec = unit.spec
        goals = sizes.classes if spec["algorithm"] == 1 else sizes.classes * (sizes.classes - 1)
        probes = 1 if spec["probe"] == "blank" else int(spec["samples"])
        return Work(gradients=probes * goals * int(spec["steps"]), disk=goals * 2**14)


def pairs(classes: int) -> list[tuple[int, int]]:
    """Every (source, target) of different classes.

    >>> pairs(2)
    [(0, 1), (1, 0)]
    """
    return [(s, t) for s in range(classes) for t in range(classes) if s != t]


def write_maps(path: Path, maps: MapSet) -> None:
    """Keep the maps, without what they cost."""
    tensors = {"mean": maps.mean, "count": maps.count, "shift": maps.shift}
    write_tensors(path, tensors, {"kind": "maps"})


def read_maps(path: Path) -> MapSet:
    """Maps that `write_maps` kept."""
    tensors, _ = read_tensors(path)
    return MapSet(mean=tensors["mean"], count=tensors["count"], shift=tensors["shift"], cost=Cost())
