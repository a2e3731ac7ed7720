"""Outliers: images whose label a separately trained model finds improbable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import log, nan
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Cost, Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.sanitize.base import (
    Filtered,
    Sanitizer,
    check_fit,
    conclude,
    judge_epochs,
    note,
    present,
)
from mithridate.defenses.sanitize.features import BATCH
from mithridate.doubts import Doubt
from mithridate.errors import InputError, NothingAssessedError, check_number, check_whole
from mithridate.rng import child
from mithridate.training import fit

PROBABILITY = 0.01
FEW = 20
"""Trusted images of a class below which the judge is a poor one."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Outliers(Sanitizer):
    """Drops images to which a separately trained model gives a low probability for their label.

    The simple filter by which Turner, Tsipras and Madry 2019, "Label-consistent backdoor
    attacks", motivate clean labels: a model is trained on a small set of clean images that are
    not in the training set, and the training images are ranked by the probability of their
    label. They look at the least probable ones (such as `count=300`) and drop nothing.

    Without `trusted` images each part of the training set is judged by a model trained on the
    other parts (cross-fitting). That is ours, and it is blind to a backdoor: poison in the
    other parts teaches the judge that the trigger means the target. It finds mislabelled images
    that have nothing in common.

    The judge has the architecture of `filter`'s classifier and new weights; the classifier's own
    play no part. The score is `-log` of the probability, comparable across classes.

    Args:
        trusted: clean images, not from the training set, for the judge to learn from.
        threshold: drops images below this probability; or
        count: drops this many of the least probable; or
        share: the same as a share of the set. Without any of the three: threshold 0.01.
        folds: parts, where there are no trusted images.
        epochs: of a judge's training, at the defaults of `training.fit`; None for 30,000
            images' worth, but 3 to 30.

    Raises:
        InputError: more than one of threshold, count and share, or one out of range.

    >>> Outliers(count=300).threshold is None
    True
    """

    about: ClassVar[About] = About(
        paper="Turner et al. 2019",
        needs=("clean images",),
        atlas=("AML.M0007",),
    )

    trusted: ImageSet | None = field(default=None, repr=False, metadata={"text": False})
    threshold: float | None = None
    count: int | None = None
    share: float | None = None
    folds: int = 2
    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.trusted is not None and not isinstance(self.trusted, ImageSet):
            raise InputError(f"trusted is an ImageSet, got {type(self.trusted).__name__}")
        rules = ("threshold", "count", "share")
        given = [name for name in rules if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} both say what to drop: give one")
        for name, low in (("count", 1), ("folds", 2), ("epochs", 1)):
            if name == "folds" or getattr(self, name) is not None:
                check_whole(name, getattr(self, name), low=low)
        for name in ("threshold", "share"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), low=0, high=1, open_low=True)

    def cost(self, sizes: Sizes) -> Work:
        """What the judges are trained on, each time counted, and one look at every image."""
        judges, images = self.folds, sizes.train * (self.folds - 1) // self.folds
        if self.trusted is not None:
            judges, images = 1, len(self.trusted)
        epochs = self.epochs or judge_epochs(images)
        return Work(forwards=sizes.train, trained=judges * epochs * images)

    def filter(self, classifier: Classifier, data: ImageSet, *, rng: torch.Generator) -> Filtered:
        """See the class and `Sanitizer.filter`. Random: folds, and the judges' training.

        Raises:
            InputError: also where trusted images have other classes or another shape.
        """
        check_fit(classifier, data, 2)
        if self.count is not None and self.count > len(data):
            raise InputError(f"count is {self.count}, {data.name} has {len(data)} images: lower it")
        score, trained = self._scores(classifier, data, rng)
        if not bool(score.isfinite().all()):
            raise NothingAssessedError("the judge's probabilities are NaN: nothing can be said")
        if self.count is None and self.share is None:
            limit = -log(self.threshold or PROBABILITY)
            keep = score <= limit
        else:
            count = self.count or round((self.share or 0) * len(score))
            gone = score.argsort(descending=True, stable=True)[:count]
            keep = torch.ones(len(score), dtype=torch.bool)
            keep[gone] = False
            limit = float(score[gone].min()) if count else nan
        most = {c: float(score[data.labels == c].max()) for c in present(data)}
        notes = [note(data, keep, c, "-log probability", most[c], limit) for c in most]
        # The classifier's own weights play no part, and were not asked.
        cost = Cost(queries=trained + len(data), gradients=trained)
        return conclude(self, data, keep, score, notes, cost, self._doubts())

    def _scores(
        self, classifier: Classifier, data: ImageSet, rng: torch.Generator
    ) -> tuple[Tensor, int]:
        """`-log` probability of each label, and the images that the judges trained on."""
        rows = torch.arange(len(data))
        parts: Iterator[tuple[Tensor, ImageSet, torch.Generator]]
        if self.trusted is not None:
            mine = (self.trusted.image_shape, self.trusted.classes)
            if mine != (data.image_shape, data.classes):
                raise InputError(
                    f"trusted images are {mine[0]} of {mine[1]} classes, {data.name} has "
                    f"{data.image_shape} of {data.classes}: take images of the same kind"
                )
            parts = iter([(rows, self.trusted, child(rng, "judge"))])
        else:
            if len(data) < 2 * self.folds:
                raise InputError(
                    f"{len(data)} images are too few for {self.folds} folds: give trusted images"
                )
            fold = torch.randperm(len(data), generator=child(rng, "folds")) % self.folds
            parts = (
                (rows[fold == k], data.subset(fold != k), child(rng, "judge", k))
                for k in range(self.folds)
            )
        score, trained = torch.zeros(len(data), dtype=torch.float64), 0
        for judged, others, random in parts:
            epochs = self.epochs or judge_epochs(len(others))
            judge = fit(classifier, others, epochs=epochs, rng=random, fresh=True)
            trained += epochs * len(others)
            for part in torch.split(judged, BATCH):
                x, labels = (tensor.to(judge.device) for tensor in data.batch(part))
                with torch.no_grad():
                    logits = judge.logits(x).double()
                score[part] = cross_entropy(logits, labels, reduction="none").cpu()
        return score, trained

    def _doubts(self) -> list[Doubt]:
        if self.trusted is None:
            text = "judged by models of the same set: a backdoor in it has taught them too"
            return [Doubt("same-poison", text)]
        fewest = int(self.trusted.labels.bincount(minlength=self.trusted.classes).min())
        if fewest < FEW:
            text = f"the judge learned from {fewest} images of a class: it errs often by itself"
            return [Doubt("weak-judge", text)]
        return []
