"""Backdoor: what a poisoned model does with clean and with stamped test images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.errors import InputError
from mithridate.metrics import accuracy, wilson
from mithridate.norms import L0, L1, L2, LINF
from mithridate.poisons import Poisoned, poisoned_test
from mithridate.rng import child, rng
from mithridate.studies.engine.tables import write_table
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.measures.base import TABLE, Measure, row, write_pictures
from mithridate.studies.parts import confused, mean_images, numbers, proportion, unguarded
from mithridate.studies.subject import Subject
from mithridate.studies.units.data import Data
from mithridate.studies.units.poisoned import trigger_of
from mithridate.training import predict

SHOWN = 8
CHUNK = 1024


COLUMNS = {
    "accuracy": {"title": "Clean accuracy", "unit": "share", "better": "up"},
    "clean_model": {"title": "Accuracy of a clean model", "unit": "share", "better": "up"},
    "asr": {
        "title": "Attack success",
        "unit": "share",
        "better": "down",
        "note": "stamped test images of other classes, classified as the attacker wants",
    },
    "unstamped": {
        "title": "The same images unstamped",
        "unit": "share",
        "note": "classified as the attacker wants without the stamp: what attack success holds of "
        "the model's own errors",
    },
    "stamped_accuracy": {
        "title": "Accuracy on stamped images",
        "unit": "share",
        "better": "up",
        "note": "by their true labels",
    },
    "accuracy_by_class": {"title": "Clean accuracy", "unit": "share", "better": "up"},
    "asr_by_class": {"title": "Attack success", "unit": "share", "better": "down"},
    "stamped_by_class": {
        "title": "Accuracy on stamped images",
        "unit": "share",
        "better": "up",
    },
}
"""What `stamped_test` tells, and the accuracy of a clean model beside it."""


class Backdoor(Measure):
    """Clean accuracy, attack success rate, and what the poison changed."""

    settings = Subject
    columns: ClassVar = {**COLUMNS, "poisoned": {"title": "Training images poisoned"}}
    views: ClassVar = [
        {"kind": "table"},
        {"kind": "bars", "value": "asr"},
        {
            "kind": "pictures",
            "arrays": [
                "confusion_clean",
                "confusion_stamped",
                "examples_clean",
                "examples_changed",
            ],
        },
    ]

    def unit(self, settings: Subject) -> Unit[Any]:
        """The measurement; a clean model of the same seed stands beside the poisoned one.

        Raises:
            InputError: no poison: there would be no trigger to stamp.
        """
        poisoned = settings.poisoned()
        if poisoned is None or settings.model is not None:
            raise InputError("the measure backdoor needs a poison, and trains the model itself")
        return Backdoored(
            model=settings.subject(),
            clean=settings.clean_model(),
            data=settings.data_unit,
            poisoned=poisoned,
            seed=settings.seed,
            **settings.place,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Backdoored(Unit[Mapping[str, Any]]):
    """The test images, stamped with the trigger of `poisoned`."""

    kind: ClassVar = "backdoor"
    version: ClassVar = 2
    memory: ClassVar = 2 * 2**30

    model: Unit[Classifier]
    clean: Unit[Classifier]
    data: Data
    poisoned: Unit[Poisoned]
    seed: int

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        """Rates, confusion matrices, mean images, examples."""
        model, test, poisoned = unguarded(get(self.model)), get(self.data).test, get(self.poisoned)
        stamped = stamped_test(model, test, poisoned, child(rng(self.seed), "test"))
        write_pictures(folder, stamped.arrays)
        write_table(folder / TABLE, stamped.table)
        clean = predict(get(self.clean), test)
        values = {"clean_model": proportion(accuracy(clean, test.labels)), **stamped.values}
        return row({**values, "poisoned": len(poisoned)}, [], test)

    def work(self, sizes: Sizes) -> Work:
        """Three passes over the test set."""
        return Work(forwards=3 * sizes.test, disk=2**18)


class Stamped(NamedTuple):
    """What a poisoned model does with stamped test images.

    Attributes:
        values: accuracy, asr, unstamped, stamped_accuracy, and rates by true class.
        arrays: confusion matrices, mean images, examples.
        table: per-image results of the stamped images.
    """

    values: dict[str, Any]
    arrays: dict[str, Tensor | None]
    table: pa.Table


def stamped_test(
    model: Classifier, test: ImageSet, poisoned: Poisoned, random: torch.Generator
) -> Stamped:
    """Stamp the test set with the poison's trigger and ask the model."""
    stamped = stamp_all(test, poisoned, random)
    rows = changed_rows(test, poisoned)
    clean, changed = predict(model, test), predict(model, stamped)
    labels = test.labels[rows]
    wanted = wanted_class(poisoned, labels, test.classes)
    hit = changed[rows] == wanted
    arrays = {
        "confusion_clean": confused(clean, test.labels, test.classes),
        "confusion_stamped": confused(changed, test.labels, test.classes),
        "mean_images": mean_images(test),
        "mean_stamped": mean_images(stamped),
        "examples_clean": test.batch(rows[:SHOWN])[0],
        "examples_changed": stamped.batch(rows[:SHOWN])[0],
    }
    values = {
        "accuracy": proportion(accuracy(clean, test.labels)),
        "asr": proportion(wilson(int(hit.sum()), len(rows))),
        "unstamped": proportion(wilson(int((clean[rows] == wanted).sum()), len(rows))),
        "stamped_accuracy": proportion(accuracy(changed[rows], labels)),
        "accuracy_by_class": by_class(clean == test.labels, test.labels, test.classes),
        "asr_by_class": by_class(hit, labels, test.classes),
        "stamped_by_class": by_class(changed[rows] == labels, labels, test.classes),
    }
    table = _table(rows, labels, clean[rows], changed[rows], hit, _distances(test, stamped, rows))
    return Stamped(values, arrays, table)


def stamp_all(test: ImageSet, poisoned: Poisoned, random: torch.Generator) -> ImageSet:
    """The test set with every image stamped that the attack is about, the others as they were."""
    trigger = trigger_of(poisoned)
    return poisoned_test(
        test, trigger, source=poisoned.source, target=poisoned.target, others=True, rng=random
    )


def changed_rows(test: ImageSet, poisoned: Poisoned) -> Tensor:
    """Rows of the test set that the attack is about."""
    if poisoned.source is not None:
        return test.of_class(poisoned.source)
    if poisoned.target is None:
        return torch.arange(len(test))
    return (test.labels != poisoned.target).nonzero()[:, 0]


def wanted_class(poisoned: Poisoned, labels: Tensor, classes: int) -> Tensor:
    """The class that the attacker wants for each image; the next one in all-to-all."""
    if poisoned.target is None:
        return (labels + 1) % classes
    return torch.full_like(labels, poisoned.target)


def by_class(hit: Tensor, labels: Tensor, classes: int) -> list[float | None]:
    """The share of hits in each class; None for a class without images.

    >>> by_class(torch.tensor([True, False, True]), torch.tensor([0, 0, 2]), 3)
    [0.5, None, 1.0]
    """
    return numbers(
        torch.bincount(labels[hit], minlength=classes) / torch.bincount(labels, minlength=classes)
    )


def _distances(test: ImageSet, stamped: ImageSet, rows: Tensor) -> dict[str, Tensor]:
    """How far the stamp moves each image, by every norm."""
    sizes: dict[str, list[Tensor]] = {"l0": [], "l1": [], "l2": [], "linf": []}
    for at in range(0, len(rows), CHUNK):
        before, after = (s.batch(rows[at : at + CHUNK])[0] for s in (test, stamped))
        for name, norm in (("l0", L0), ("l1", L1), ("l2", L2), ("linf", LINF)):
            sizes[name].append(norm.distance(after, before))
    return {name: torch.cat(parts) for name, parts in sizes.items()}


def _table(
    rows: Tensor,
    labels: Tensor,
    clean: Tensor,
    changed: Tensor,
    hit: Tensor,
    distances: Mapping[str, Tensor],
) -> pa.Table:
    return pa.table(
        {
            "image": pa.array(rows.numpy(), pa.int32()),
            "label": pa.array(labels.numpy(), pa.int16()),
            "clean": pa.array(clean.numpy(), pa.int16()),
            "predicted": pa.array(changed.numpy(), pa.int16()),
            "success": pa.array(hit.numpy()),
            **{name: pa.array(d.numpy(), pa.float32()) for name, d in distances.items()},
            "queries": pa.nulls(len(rows), pa.int32()),
        }
    )
