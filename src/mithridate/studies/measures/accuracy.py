"""Accuracy: what a model makes of clean test images, and which model it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mithridate.checks import false_alarms
from mithridate.classifier import Classifier, Guarded
from mithridate.component import name_of
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet, some_rows
from mithridate.errors import QueriesRefused
from mithridate.metrics import accuracy, chance_doubts, wilson
from mithridate.networks.checkpoint import fingerprint
from mithridate.rng import rng
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.measures.base import Measure, row, write_pictures
from mithridate.studies.parts import confused, mean_images, proportion, unguarded
from mithridate.studies.soundness import check_model, model_doubts
from mithridate.studies.subject import Subject
from mithridate.studies.units.data import Data
from mithridate.training import doubts_of, predict

ASKED = 1000
"""Clean images that a guard is asked about, one by one: it compares each with all before."""


class Settings(Subject):
    """A model.

    Attributes:
        varied: refuse a constant model, of which nothing can be said.
        called: how messages call it.
        samples: test images, drawn by `sample_seed` as the measure evasion draws them; None for
            all of them.
    """

    varied: bool = False
    called: str = "the model"
    samples: int | None = Field(default=None, ge=1)
    sample_seed: int = Field(default=0, ge=0)


class Accuracy(Measure):
    """Clean accuracy, the confusion of classes, and the model's description."""

    settings = Settings
    columns: ClassVar = {
        "accuracy": {"title": "Clean accuracy", "unit": "share", "better": "up"},
        "architecture": {"title": "Network", "unit": "text"},
        "parameters": {"title": "Parameters"},
        "rejected": {
            "title": "Rejected",
            "unit": "share",
            "better": "down",
            "note": "by a detector; or by a guard, each image asked about once by one user; none "
            "of these counts as right",
        },
    }
    views: ClassVar = [
        {"kind": "table", "values": [name for name in columns if name != "rejected"]},
        {"kind": "pictures", "arrays": ["confusion_clean"]},
    ]

    def unit(self, settings: Settings) -> Unit[Any]:
        """One unit."""
        return Predicted(
            model=settings.subject(),
            data=settings.data_unit,
            varied=settings.varied,
            called=settings.called,
            samples=settings.samples,
            seed=settings.sample_seed if settings.samples is not None else 0,
            **settings.place,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted(Unit[Mapping[str, Any]]):
    """The test images of `data`, as `model` classifies them."""

    kind: ClassVar = "accuracy"
    version: ClassVar = 5

    model: Unit[Classifier]
    data: Data
    varied: bool
    called: str
    samples: int | None
    seed: int

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        asked, test = get(self.model), get(self.data).test
        model = unguarded(asked)
        check_model(self.called, model, test, varied=self.varied)
        if self.samples is not None:
            rows = some_rows(test, self.samples, rng(self.seed))
            test = test.subset(rows, name=test.name)
        predicted = predict(model, test)
        write_pictures(
            folder,
            {
                "confusion_clean": confused(predicted, test.labels, test.classes),
                "mean_images": mean_images(test),
            },
        )
        module = model.module
        values = {
            "accuracy": proportion(accuracy(predicted, test.labels)),
            "architecture": architecture(model),
            "parameters": sum(p.numel() for p in module.parameters()),
            "sha256": fingerprint(model),
            "data": test.name,
            "images": len(test),
            "image_shape": [float(size) for size in test.image_shape],
            "data_sha256": get(self.data).test.fingerprint(),
        }
        if model.rejected is not None:
            rejected = int((predicted == model.rejected).sum())
            values["rejected"] = proportion(wilson(rejected, len(test)))
        if isinstance(asked, Guarded):
            answered = _answered(asked, test.subset(range(min(ASKED, len(test)))))
            right = (predicted == test.labels)[: len(answered)] & answered
            values["accuracy"] = proportion(wilson(int(right.sum()), len(answered)))
            values["rejected"] = proportion(wilson(int((~answered).sum()), len(answered)))
        doubts = [
            *false_alarms(model, predicted),
            *model_doubts(model),
            *doubts_of(model),
            *chance_doubts(predicted, test.labels, test.classes),
        ]
        return row(values, doubts, test)

    def work(self, sizes: Sizes) -> Work:
        return Work(forwards=min(self.samples or sizes.test, sizes.test), disk=2**16)


def _answered(oracle: Guarded, data: ImageSet) -> Tensor:
    """Which images a guard answers a user who asks about each once, in order: bool (N,)."""
    answered = torch.ones(len(data), dtype=torch.bool)
    for place in range(len(data)):
        try:
            oracle.labels(data.batch([place])[0])
        except QueriesRefused:
            answered[place] = False
    return answered


def architecture(model: Classifier) -> str:
    """What the network is, and what stands in front of it, the outermost last.

    >>> from mithridate.defenses.transform import SpatialSmoothing
    >>> from mithridate.networks import create
    >>> network = create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    >>> architecture(SpatialSmoothing().wrap(Classifier(network, classes=10)))
    'digits-cnn behind spatial-smoothing'
    """
    defenses = [str(one["name"]) for one in model.info.get("defenses", [])]
    names = (getattr(module, "network_name", None) for module in model.module.modules())
    own = "a network" if defenses else name_of(model.module)
    network = next(filter(None, names), own)
    return f"{network} behind {', '.join(defenses)}" if defenses else network
