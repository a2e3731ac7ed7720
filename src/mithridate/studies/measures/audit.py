"""Audit: the whole judgement of one model, as `mithridate audit` makes it, as a cell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field

from mithridate.data.store import cache_folder
from mithridate.doubts import Doubt
from mithridate.networks.storage import write
from mithridate.component import settings as settings_of
from mithridate.studies.audit import Audit, recipe_epochs
from mithridate.studies.engine.unit import Inputs, Kind, Needs, Progress, Sizes, Unit, Work
from mithridate.studies.kinds.calibration import inspector_of, passes
from mithridate.studies.kinds.model import model_file_unit
from mithridate.studies.measures.base import MaybeNamed, Measure, Subject, row, write_pictures
from mithridate.studies.parts import Planted
from mithridate.studies.parts import Subject as Model

RECORD = "record.json"
"""The audit's own record, timings included: the report of a single audit is drawn from it."""


class Settings(Subject):
    """A model to judge, and how thoroughly.

    Attributes:
        references: checkpoint files of clean models that the user trusts.
        inspector: bias-maps and its settings.
        attack_images, noise_queries: as `studies.Audit`.
        audit_seed: of every random choice of the audit.
    """

    references: list[str] = Field(default_factory=list)
    inspector: MaybeNamed = Field(default_factory=lambda: {"name": "bias-maps"})
    attack_images: int = Field(default=500, ge=0)
    noise_queries: int = Field(default=100_000, ge=0)
    audit_seed: int = Field(default=0, ge=0)


class AuditMeasure(Measure):
    """Verdict, clean accuracy, what evasion leaves, the recovered trigger."""

    settings = Settings
    columns: ClassVar = {
        "suspicious": {"title": "Alarm", "unit": "flag"},
        "p_value": {"title": "p"},
        "headline": {"title": "Finding", "unit": "text"},
        "accuracy": {"title": "Clean accuracy", "unit": "share", "better": "up"},
        "accuracy_left": {
            "title": "Accuracy left",
            "unit": "share",
            "better": "up",
            "note": "by the strongest of the audit's attacks",
        },
        "recovered_asr": {"title": "Recovered trigger", "unit": "share", "better": "down"},
    }
    views: ClassVar = [
        {"kind": "table"},
        {"kind": "pictures", "arrays": ["confusion_clean", "maps_suspect", "maps_reference"]},
    ]

    def unit(self, settings: Settings) -> Unit:
        """One unit: the steps of an audit build on each other."""
        plan = {key: value for key, value in settings.inspector.items() if key != "name"}
        inspector_of(plan)
        spec = {
            "inspector": plan,
            "attack_images": settings.attack_images,
            "noise_queries": settings.noise_queries,
            "seed": settings.audit_seed,
            "name": settings.model or "trained here",
            "references": settings.references,
            **settings.place,
        }
        references = tuple(
            model_file_unit(path, network=None, place=settings.place)
            for path in settings.references
        )
        return Unit("audit", spec, {**settings.inputs(), "references": references})


class AuditKind(Kind):
    """Runs the audit on its input `model`."""

    def make(
        self, spec: Mapping[str, Any], inputs: Inputs, folder: Path, tell: Progress
    ) -> dict[str, Any]:
        """The audit's record and pictures, and its main values."""
        sets, poisoned = inputs["data"], inputs.get("poisoned")
        suspect = Model(str(spec["name"]), inputs["model"])
        plan = dict(spec["inspector"])
        plan.setdefault("control_epochs", recipe_epochs(suspect, sets.train))
        found = Audit(
            inspector=inspector_of(plan),
            attack_images=int(spec["attack_images"]),
            noise_queries=int(spec["noise_queries"]),
        ).run(
            suspect,
            sets.train,
            sets.test,
            references=[
                Model(name, model)
                for name, model in zip(spec["references"], inputs["references"], strict=True)
            ],
            planted=None
            if poisoned is None or poisoned.source is None or poisoned.target is None
            else Planted(poisoned.source, poisoned.target, poisoned.trigger),
            command="mithridate run audit",
            seed=int(spec["seed"]),
            cache=cache_folder() / "controls",
        )
        if found.interrupted:
            raise KeyboardInterrupt
        record = found.record
        write(folder / RECORD, json.dumps(record, allow_nan=False).encode())
        write_pictures(folder, {k: torch.as_tensor(v) for k, v in found.arrays.items()})
        verdict, rates = record["verdict"], record["backdoor"]
        left = [a["accuracy_left"] for a in record["attacks"] if a["accuracy_left"]]
        values = {
            **{key: verdict[key] for key in ("suspicious", "p_value", "headline")},
            "accuracy": rates["clean_accuracy"],
            "accuracy_left": min(left, key=lambda share: float(share["value"]), default=None),
            "recovered_asr": rates["recovered_asr"],
        }
        return row(values, [Doubt(**doubt) for doubt in verdict["doubts"]], sets.test)

    def code(self, spec: Mapping[str, Any]) -> tuple[str, ...]:
        """The triggers', which name a planted truth."""
        return ("poisons.triggers",)

    def needs(self, spec: Mapping[str, Any]) -> Needs:
        """The data set, and models."""
        return Needs(gpus=int(spec["device"] == "cuda"), memory=3 * 2**30)

    def work(self, unit: Unit, sizes: Sizes) -> Work:
        """Clean models at worst, the search in each of them, and the attacks."""
        plan = unit.spec["inspector"]
        models = int(plan.get("controls", settings_of(type(inspector_of({})))["controls"]))
        epochs = int(plan.get("control_epochs", 5))
        trained = max(0, models - len(unit.spec["references"])) * epochs * sizes.train
        return Work(
            trained=trained,
            gradients=(models + 1) * passes(plan, sizes) + 60 * int(unit.spec["attack_images"]),
            forwards=2 * int(unit.spec["noise_queries"]),
            disk=2**20,
        )
