"""Inspection: is a model called poisoned, rightly, and is the trigger found where it was put?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from mithridate.defenses.inspect import Verdict
from mithridate.poisons import Poisoned, bounding_box
from mithridate.rng import rng
from mithridate.studies.engine.unit import Inputs, Kind, Needs, Progress, Sizes, Unit, Work
from mithridate.studies.kinds.calibration import inspector_of, passes
from mithridate.studies.kinds.poisoned import trigger_of
from mithridate.studies.measures.base import MaybeNamed, Measure, Subject, row, write_pictures
from mithridate.studies.parts import number, numbers, proportion
from mithridate.studies.steps import box_iou

LOCATED = 0.5
"""Overlap from which a trigger counts as located."""


class Settings(Subject):
    """A model, the inspector that judges it, and the clean models that it is compared with.

    Attributes:
        inspector: bias-maps and its settings.
        reference: "parent" (the suspect's own clean parent and unrelated clean models), or
            "other" (unrelated clean models only, what a user has who was handed a model).
        controls: clean models in all.
        control_seed: of the unrelated clean models.
        inspect_seed: of the inspection.
    """

    inspector: MaybeNamed = Field(default_factory=lambda: {"name": "bias-maps"})
    reference: Literal["parent", "other"] = "other"
    controls: int = Field(default=8, ge=3)
    control_seed: int = Field(default=1000, ge=0)
    inspect_seed: int = Field(default=1, ge=0)

    def clean_models(self) -> tuple[Unit, ...]:
        """The clean side; every suspect of the same data and network shares them."""
        others = [
            self.clean_model(self.control_seed, ("control", str(i))) for i in range(self.controls)
        ]
        if self.reference == "other":
            return tuple(others)
        return (self.clean_model(), *others[:-1])


class Inspection(Measure):
    """A verdict beside the truth."""

    settings = Settings
    columns: ClassVar = {
        "suspicious": {"title": "Alarm", "unit": "flag"},
        "p_value": {"title": "p"},
        "statistic": {"title": "Statistic"},
        "pair": {"title": "Source → target named", "unit": "text"},
        "target_named": {"title": "Target right", "unit": "flag"},
        "source_named": {"title": "Source right", "unit": "flag"},
        "first": {"title": "Target or source first", "unit": "flag"},
        "iou": {"title": "IoU", "note": "of the located region and the true patch"},
        "located": {"title": "IoU at least 0.5", "unit": "flag"},
        "region": {"title": "Region", "unit": "text", "note": "top, left, bottom, right"},
        "recovered_asr": {"title": "Recovered trigger", "unit": "share"},
    }
    views: ClassVar = [
        {"kind": "table"},
        {"kind": "pictures", "arrays": ["maps_suspect", "maps_reference", "difference", "trigger"]},
    ]

    def unit(self, settings: Settings) -> Unit:
        """The verdict, over a calibrated clean side that other suspects share."""
        plan = {key: value for key, value in settings.inspector.items() if key != "name"}
        inspector_of(plan)
        spec = {"inspector": plan, "seed": settings.inspect_seed, **settings.place}
        inputs = settings.inputs()
        clean = Unit(
            "calibration", spec, {"models": settings.clean_models(), "data": inputs["data"]}
        )
        return Unit("inspection", spec, {**inputs, "clean": clean})


class InspectionKind(Kind):
    """Judges its input `model` against the calibrated side `clean`."""

    def make(
        self, spec: Mapping[str, Any], inputs: Inputs, folder: Path, tell: Progress
    ) -> dict[str, Any]:
        """The verdict and its maps; beside it the truth, where a poison is known."""
        found = inspector_of(spec["inspector"]).inspect(
            inputs["model"],
            inputs["data"].test,
            reference=inputs["clean"],
            rng=rng(int(spec["seed"])),
            progress=tell,
        )
        shape = inputs["data"].test.image_shape
        truth = truth_of(found, inputs["poisoned"], shape) if "poisoned" in inputs else {}
        reference = found.reference_maps
        write_pictures(
            folder,
            {
                "maps_suspect": found.maps.mean,
                "map_share_suspect": found.maps.share,
                "maps_reference": None if reference is None else reference.mean,
                "map_share_reference": None if reference is None else reference.share,
                "difference": found.difference if found.suspicious else None,
                "trigger": found.trigger if found.suspicious else None,
            },
        )
        region = found.region
        values = {
            "suspicious": found.suspicious,
            "p_value": number(found.p_value),
            "statistic": number(found.statistic),
            "pair": f"{found.source} → {found.target}",
            "region": None if region is None else ", ".join(map(str, region)),
            "recovered_asr": proportion(found.recovered_asr),
            "distances": numbers(found.distances),
            "clean_distances": numbers(found.clean_distances),
            **truth,
        }
        return row(values, found.doubts, inputs["data"].test)

    def code(self, spec: Mapping[str, Any]) -> tuple[str, ...]:
        """The triggers', whose place is the truth."""
        return ("poisons.triggers",)

    def needs(self, spec: Mapping[str, Any]) -> Needs:
        """The test set, and its adversarial copies."""
        return Needs(gpus=int(spec["device"] == "cuda"), memory=2 * 2**30)

    def work(self, unit: Unit, sizes: Sizes) -> Work:
        """Maps and a search."""
        return Work(gradients=passes(unit.spec["inspector"], sizes), disk=2**18)


def truth_of(
    found: Verdict, poisoned: Poisoned, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """How the verdict compares with what was planted."""
    box = bounding_box(trigger_of(poisoned).support(image_shape))
    first = found.ranking[0][0]
    values: dict[str, Any] = {
        "target": poisoned.target,
        "source": poisoned.source,
        "target_named": found.target == poisoned.target,
        "source_named": found.source == poisoned.source if poisoned.source is not None else None,
        "first": first in (poisoned.source, poisoned.target),
    }
    if box is not None:
        values["iou"] = (
            0.0
            if found.region is None
            else box_iou((box.top, box.left, box.bottom, box.right), found.region)
        )
        values["located"] = values["iou"] >= LOCATED
    return values
