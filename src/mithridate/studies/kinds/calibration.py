"""The clean side of bias-map verdicts as a unit: calibrated once, for every suspect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mithridate import component
from mithridate.defenses.inspect import BiasMaps, CleanSide
from mithridate.rng import rng
from mithridate.studies.engine.unit import Inputs, Kind, Needs, Progress, Sizes, Unit, Work
from mithridate.studies.kinds.maps import read_maps, write_maps


class CalibrationKind(Kind):
    """Puts the clean `models` through the search of the inspector, against each other.

    spec: `inspector` (settings of bias-maps), `seed`.
    """

    def make(
        self, spec: Mapping[str, Any], inputs: Inputs, folder: Path, tell: Progress
    ) -> dict[str, Any]:
        """Calibrate; maps and null values are kept, the models have units of their own."""
        side = inspector_of(spec["inspector"]).calibrate(
            inputs["models"], inputs["data"].test, rng=rng(int(spec["seed"])), progress=tell
        )
        for index, maps in enumerate(side.maps):
            write_maps(folder / f"maps-{index}.safetensors", maps)
        return {"null_values": list(side.null_values)}

    def open(
        self, folder: Path, values: Mapping[str, Any], spec: Mapping[str, Any], inputs: Inputs
    ) -> CleanSide:
        """The clean side, with its models."""
        models = tuple(inputs["models"])
        maps = (read_maps(folder / f"maps-{index}.safetensors") for index in range(len(models)))
        return CleanSide(models, tuple(maps), tuple(values["null_values"]), int(spec["seed"]))

    def needs(self, spec: Mapping[str, Any]) -> Needs:
        """The test set, and its adversarial copies."""
        return Needs(gpus=int(spec["device"] == "cuda"), memory=2 * 2**30)

    def work(self, unit: Unit, sizes: Sizes) -> Work:
        """Maps and a search for each model."""
        models = unit.inputs["models"]
        count = len(models) if isinstance(models, tuple) else 1
        return Work(gradients=count * passes(unit.spec["inspector"], sizes), disk=count * 2**16)


def inspector_of(settings: Mapping[str, Any]) -> BiasMaps:
    """The inspector that a table of settings describes.

    Raises:
        InputError: an unknown setting, or one out of range.

    >>> inspector_of({"samples": 50}).samples
    50
    """
    made: BiasMaps = component.create("inspectors", "bias-maps", settings)
    return made


def passes(settings: Mapping[str, Any], sizes: Sizes) -> int:
    """About how many images one inspection differentiates."""
    plan = inspector_of(settings)
    maps = plan.samples * sizes.classes * plan.steps
    return maps + 2 * plan.pairs * plan.images * plan.grow_steps
