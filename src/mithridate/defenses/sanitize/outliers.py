"""Outliers: images whose label a separately trained model finds improbable."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log, nan
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.sanitize.base import (
    ClassNote,
    Filtered,
    Sanitizer,
    check_fit,
    check_whole,
    conclude,
    present,
    spent,
    usual_epochs,
)
from mithridate.defenses.sanitize.features import BATCH
from mithridate.doubts import Doubt
from mithridate.errors import InputError, NothingAssessedError, check_number
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
    version: ClassVar[int] = 1

    trusted: ImageSet | None = field(default=None, repr=False, metadata={"text": False})
    threshold: float | None = None
    count: int | None = None
    share: float | None = None
    folds: int = 2
    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.trusted is not None and not isinstance(self.trusted, ImageSet):
            raise InputError(f"trusted is an ImageSet, got {type(self.trusted).__name__}")
        given = [name for name in ("threshold", "count", "share") if self._value(name) is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} both say what to drop: give one")
        for name, low in (("count", 1), ("folds", 2), ("epochs", 1)):
            if self._value(name) is not None:
                check_whole(name, getattr(self, name), low)
        for name in ("threshold", "share"):
            value = self._value(name)
            if value is not None:
                check_number(name, value, low=0, high=1, open_low=True)

    def _value(self, name: str) -> float | None:
        value: float | None = getattr(self, name)
        return value

    def cost(self, sizes: Sizes) -> Work:
        """What the judges are trained on, each time counted, and one look at every image."""
        judges, images = self.folds, sizes.train * (self.folds - 1) // self.folds
        if self.trusted is not None:
            judges, images = 1, len(self.trusted)
        epochs = self.epochs or usual_epochs(images)
        return Work(forwards=sizes.train, trained=judges * epochs * images)

    def filter(self, classifier: Classifier, data: ImageSet, *, rng: torch.Generator) -> Filtered:
        """See the class and `Sanitizer.filter`. Random: folds, and the judges' training.

        Raises:
            InputError: also where trusted images have other classes or another shape.
        """
        check_fit(classifier, data, 2)
        if self.count is not None and self.count > len(data):
            raise InputError(f"count is {self.count}, {data.name} has {len(data)} images: lower it")
        score, spending = self._scores(classifier, data, rng)
        if not bool(score.isfinite().all()):
            raise NothingAssessedError("the judge's probabilities are NaN: nothing can be said")
        keep = self._kept(score)
        limit = float(score[~keep].min()) if not bool(keep.all()) else nan
        if self.count is None and self.share is None:
            limit = -log(self.threshold or PROBABILITY)
        notes = [self._note(c, data.labels == c, keep, score, limit) for c in present(data)]
        before = classifier.cost.queries  # its own weights play no part
        cost = spent(classifier, before, trained=spending, asked=len(data))
        return conclude(self, data, keep, score, notes, cost, self._doubts())

    def _scores(
        self, classifier: Classifier, data: ImageSet, rng: torch.Generator
    ) -> tuple[Tensor, int]:
        """`-log` probability of each label, and the images that the judges trained on."""
        if self.trusted is not None:
            check_trusted(self.trusted, data)
            judge, spending = self._judge(classifier, self.trusted, child(rng, "judge"))
            return _surprise(judge, data, torch.arange(len(data))), spending
        if len(data) < 2 * self.folds:
            raise InputError(
                f"{len(data)} images are too few for {self.folds} folds: give trusted images"
            )
        fold = torch.randperm(len(data), generator=child(rng, "folds")) % self.folds
        score = torch.zeros(len(data), dtype=torch.float64)
        spending = 0
        for k in range(self.folds):
            judge, more = self._judge(classifier, data.subset(fold != k), child(rng, "judge", k))
            rows = (fold == k).nonzero()[:, 0]
            score[rows] = _surprise(judge, data, rows)
            spending += more
        return score, spending

    def _judge(
        self, classifier: Classifier, data: ImageSet, rng: torch.Generator
    ) -> tuple[Classifier, int]:
        epochs = self.epochs or usual_epochs(len(data))
        judge = fit(classifier, data, epochs=epochs, rng=rng, fresh=True)
        return judge, epochs * len(data)

    def _kept(self, score: Tensor) -> Tensor:
        if self.count is None and self.share is None:
            return score <= -log(self.threshold or PROBABILITY)
        count = self.count or round((self.share or 0) * len(score))
        keep = torch.ones(len(score), dtype=torch.bool)
        keep[score.argsort(descending=True, stable=True)[:count]] = False
        return keep

    def _note(self, c: int, own: Tensor, keep: Tensor, score: Tensor, limit: float) -> ClassNote:
        return ClassNote(
            label=c,
            count=int(own.sum()),
            dropped=int((own & ~keep).sum()),
            suspicious=None,
            statistic="-log probability",
            value=float(score[own].max()),
            threshold=limit,
        )

    def _doubts(self) -> list[Doubt]:
        if self.trusted is None:
            text = "judged by models of the same set: a backdoor in it has taught them too"
            return [Doubt("same-poison", text)]
        fewest = int(self.trusted.labels.bincount(minlength=self.trusted.classes).min())
        if fewest < FEW:
            text = f"the judge learned from {fewest} images of a class: it errs often by itself"
            return [Doubt("weak-judge", text)]
        return []


def check_trusted(trusted: ImageSet, data: ImageSet) -> None:
    """Refuse trusted images of other classes or another shape.

    >>> one = ImageSet(torch.zeros(1, 1, 2, 2).byte(), [0], ["a", "b"], "mine")
    >>> check_trusted(one, one)
    """
    if trusted.classes != data.classes or trusted.image_shape != data.image_shape:
        raise InputError(
            f"trusted images are {trusted.image_shape} of {trusted.classes} classes, {data.name} "
            f"has {data.image_shape} of {data.classes}: take images of the same kind"
        )


def _surprise(judge: Classifier, data: ImageSet, rows: Tensor) -> Tensor:
    """`-log` probability that the judge gives the labels of some rows, float64 (n,)."""
    parts = []
    for at in range(0, len(rows), BATCH):
        x, labels = (tensor.to(judge.device) for tensor in data.batch(rows[at : at + BATCH]))
        with torch.no_grad():
            logits = judge.logits(x).double()
        parts.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none").cpu())
    return torch.cat(parts)
