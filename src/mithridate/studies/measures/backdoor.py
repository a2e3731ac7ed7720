"""Backdoor: what a poisoned model does with clean and with stamped test images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa
import torch
from pydantic import Field
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
from mithridate.studies.parts import confused, mean_images, proportion, unguarded
from mithridate.studies.subject import Subject
from mithridate.studies.units.data import Data
from mithridate.studies.units.poisoned import trigger_of
from mithridate.training import predict

SHOWN = 8
CHUNK = 1024


class Settings(Subject):
    """A poisoned model.

    Attributes:
        embed: clean and stamped test images, half each, whose last-layer activations are
            shown by t-SNE; 0 leaves that out.
    """

    embed: int = Field(default=0, ge=0)


class Backdoor(Measure):
    """Clean accuracy, attack success rate, and what the poison changed."""

    settings = Settings
    columns: ClassVar = {
        "accuracy": {"title": "Clean accuracy", "unit": "share", "better": "up"},
        "clean_model": {"title": "Accuracy of a clean model", "unit": "share", "better": "up"},
        "asr": {
            "title": "Attack success",
            "unit": "share",
            "better": "down",
            "note": "stamped test images of other classes, classified as the attacker wants",
        },
        "stamped_accuracy": {
            "title": "Accuracy on stamped images",
            "unit": "share",
            "better": "up",
            "note": "by their true labels",
        },
        "poisoned": {"title": "Training images poisoned"},
    }
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

    def unit(self, settings: Settings) -> Unit[Any]:
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
            embed=settings.embed,
            seed=settings.seed,
            **settings.place,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Backdoored(Unit[Mapping[str, Any]]):
    """The test images, stamped with the trigger of `poisoned`."""

    kind: ClassVar = "backdoor"
    memory: ClassVar = 2 * 2**30

    model: Unit[Classifier]
    clean: Unit[Classifier]
    data: Data
    poisoned: Unit[Poisoned]
    embed: int
    seed: int

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        """Rates, confusion matrices, mean images, examples, embedding."""
        model, test, poisoned = unguarded(get(self.model)), get(self.data).test, get(self.poisoned)
        random = child(rng(self.seed), "test")
        stamped = stamped_test(model, test, poisoned, random)
        arrays = stamped.arrays
        if self.embed:
            arrays |= embedding(model, test, stamped.images, stamped.rows, self.embed, random)
        write_pictures(folder, arrays)
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
        images: the test set, stamped where the attack is about it.
        rows: these rows.
        values: accuracy, asr, stamped_accuracy.
        arrays: confusion matrices, mean images, examples.
        table: per-image results of `rows`.
    """

    images: ImageSet
    rows: Tensor
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
    hit = changed[rows] == wanted_class(poisoned, labels, test.classes)
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
        "stamped_accuracy": proportion(accuracy(changed[rows], labels)),
    }
    table = _table(rows, labels, clean[rows], changed[rows], hit, _distances(test, stamped, rows))
    return Stamped(stamped, rows, values, arrays, table)


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


def embedding(
    model: Classifier,
    test: ImageSet,
    stamped: ImageSet,
    rows: Tensor,
    count: int,
    random: torch.Generator,
) -> dict[str, Tensor]:
    """t-SNE of last-layer activations: clean images of all classes, and stamped ones."""
    from sklearn.manifold import TSNE

    half = min(count // 2, len(rows), len(test))
    if half < 2:
        raise InputError(f"embed needs at least 4 images, got {count}")
    clean_rows = torch.randperm(len(test), generator=child(random, "clean"))[:half]
    stamped_rows = rows[torch.randperm(len(rows), generator=child(random, "stamped"))[:half]]
    parts = [
        model.features(images.batch(chosen[at : at + CHUNK])[0].to(model.device)).cpu()
        for images, chosen in ((test, clean_rows), (stamped, stamped_rows))
        for at in range(0, half, CHUNK)
    ]
    features = torch.cat(parts).numpy()
    perplexity = min(30.0, (len(features) - 1) / 3)
    points = TSNE(init="pca", random_state=0, perplexity=perplexity).fit_transform(features)
    labels = torch.cat([test.labels[clean_rows], test.labels[stamped_rows]])
    return {
        "embedding": torch.from_numpy(points),
        "embedding_label": labels,
        "embedding_group": torch.arange(2).repeat_interleave(half),
    }


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
