"""Activations: whether the last layer tells stamped images of a class from its clean ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.cost import Sizes, Work
from mithridate.errors import InputError
from mithridate.metrics import wilson
from mithridate.poisons import Poisoned
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.measures.backdoor import changed_rows, stamp_all
from mithridate.studies.measures.base import Measure, row, write_pictures
from mithridate.studies.measures.poisoning import Victim
from mithridate.studies.parts import proportion
from mithridate.studies.units.data import Data

CHUNK = 1024


class Settings(Victim):
    """A poisoned model.

    Attributes:
        images: clean test images of each class, and as many other ones stamped; half of a class
            at most.
    """

    images: int = Field(default=100, ge=4)


class Activations(Measure):
    """Gopalan et al. 2021, figure 5, for every class, and in numbers.

    t-SNE draws what it likes, so the numbers are of the activations themselves: the silhouette of
    clean against stamped images of a class (Rousseeuw 1987; 1 two clusters far apart, 0 one), and
    the accuracy of a linear probe, fitted on half of the images, on the other half. A linear
    probe may read a trigger that the model does not use: beside them stand those of a model that
    never saw the poison.
    """

    settings = Settings
    columns: ClassVar = {
        "silhouette": {
            "title": "Silhouette",
            "better": "down",
            "note": "of clean against stamped images of a class, the mean over classes",
        },
        "silhouette_clean_model": {"title": "Silhouette of a clean model", "better": "down"},
        "probe": {
            "title": "Linear probe",
            "unit": "share",
            "better": "down",
            "note": "of held-out images, clean or stamped; half is guessing",
        },
        "probe_clean_model": {"title": "Probe of a clean model", "unit": "share"},
        "silhouettes": {"title": "Silhouette"},
        "silhouettes_clean_model": {"title": "Silhouette of a clean model"},
        "probes": {"title": "Linear probe", "unit": "share"},
        "probes_clean_model": {"title": "Probe of a clean model", "unit": "share"},
    }
    views: ClassVar = [
        {"kind": "table"},
        {"kind": "classes", "value": "silhouettes", "reference": "silhouettes_clean_model"},
        {"kind": "pictures", "arrays": ["embedding"]},
    ]

    def unit(self, settings: Settings) -> Unit[Any]:
        """The measurement; a clean model of the same seed stands beside the poisoned one.

        Raises:
            InputError: no poison, or a model file.
        """
        poisoned = settings.poisoned()
        if poisoned is None or settings.model is not None:
            raise InputError("the measure activations needs a poison, and trains the model itself")
        return Activated(
            model=settings.bare(),
            clean=settings.clean_model(),
            data=settings.data_unit,
            poisoned=poisoned,
            images=settings.images,
            seed=settings.seed,
            **settings.place,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Activated(Unit[Mapping[str, Any]]):
    """Last-layer activations of both models for clean and stamped test images of every class."""

    kind: ClassVar = "activations"

    model: Unit[Classifier]
    clean: Unit[Classifier]
    data: Data
    poisoned: Unit[Poisoned]
    images: int
    seed: int

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        """Silhouettes, probes, and the embedding of the poisoned model's activations."""
        test, random = get(self.data).test, child(rng(self.seed), "activations")
        poisoned = get(self.poisoned)
        stamped = stamp_all(test, poisoned, child(rng(self.seed), "test"))
        rows, group = drawn(test.labels, changed_rows(test, poisoned), self.images, random)
        x = torch.where(
            (group == 1).reshape(-1, 1, 1, 1), stamped.batch(rows)[0], test.batch(rows)[0]
        )
        labels = test.labels[rows]
        values: dict[str, Any] = {}
        for end, model in (("", self.model), ("_clean_model", self.clean)):
            features = _features(get(model), x)
            values |= {
                f"{key}{end}": value for key, value in apart(features, labels, group).items()
            }
            if not end:
                arrays = {"embedding": _embedded(features)}
        arrays |= {"embedding_label": labels, "embedding_group": group}
        write_pictures(folder, arrays)
        return row(values, [], test)

    def work(self, sizes: Sizes) -> Work:
        """Two passes over the images."""
        return Work(forwards=4 * self.images * sizes.classes, disk=2**16)


def drawn(
    labels: Tensor, stampable: Tensor, count: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows of clean images of every class, and other rows to stamp; 0 or 1 for each.

    `count` of each, half of a class's images at most; a class that is not stamped gives clean
    ones alone.

    >>> rows, group = drawn(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2]), 1, rng(0))
    >>> len(rows), len(set(rows.tolist())), group.tolist()
    (3, 3, [0, 1, 0])
    """
    order = torch.randperm(len(labels), generator=random)
    allowed = torch.zeros(len(labels), dtype=torch.bool)
    allowed[stampable] = True
    rows, group = [], []
    for k in torch.bincount(labels).nonzero()[:, 0].tolist():
        mine = order[labels[order] == k]
        stamps = bool(allowed[mine].any())
        few = min(count, max(1, len(mine) // 2))
        rows += [mine[:few], mine[few : 2 * few]] if stamps else [mine[:few]]
        group += [0] * few + [1] * (few if stamps else 0)
    return torch.cat(rows), torch.tensor(group)


def apart(features: NDArray[np.float32], labels: Tensor, group: Tensor) -> dict[str, Any]:
    """How far clean (0) and stamped (1) images of each class are apart.

    Returns:
        silhouette: the mean over classes; None where no class has two of each.
        probe: the share of held-out images, of all classes, that linear probes tell rightly.
        silhouettes, probes: of each class, None where it was not stamped.

    >>> near = torch.tensor([[0.0], [1.0], [0.5], [0.25], [9.0], [9.5], [9.0], [9.75]])
    >>> found = apart(near.numpy(), torch.zeros(8).long(), torch.arange(8) // 4)
    >>> round(found["silhouette"], 2), found["probe"]["k"], found["probe"]["n"]
    (0.94, 4, 4)
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import silhouette_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes = int(labels.max()) + 1
    silhouettes: list[float | None] = [None] * classes
    probes: list[float | None] = [None] * classes
    right = tried = 0
    for k in range(classes):
        mine, stamp = features[labels == k], group[labels == k].numpy()
        if min(stamp.sum(), len(stamp) - stamp.sum()) < 2:
            continue
        silhouettes[k] = float(silhouette_score(mine, stamp))
        place = np.concatenate([np.arange((stamp == which).sum()) for which in (0, 1)])
        fitted = place % 2 == 0  # rows of one group stand together, in random order
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        probe.fit(mine[fitted], stamp[fitted])
        hits = probe.predict(mine[~fitted]) == stamp[~fitted]
        probes[k] = float(hits.mean())
        right, tried = right + int(hits.sum()), tried + len(hits)
    there = [value for value in silhouettes if value is not None]
    return {
        "silhouette": float(np.mean(there)) if there else None,
        "silhouettes": silhouettes,
        "probe": proportion(wilson(right, tried)) if tried else None,
        "probes": probes,
    }


def _features(model: Classifier, x: Tensor) -> NDArray[np.float32]:
    parts = [model.features(part.to(model.device)).cpu() for part in torch.split(x, CHUNK)]
    return np.asarray(torch.cat(parts).flatten(1).numpy(), dtype=np.float32)


def _embedded(features: NDArray[np.float32]) -> Tensor:
    """t-SNE (van der Maaten & Hinton 2008): float (N, 2)."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    points = TSNE(init="pca", random_state=0, perplexity=perplexity).fit_transform(features)
    return torch.from_numpy(points)
