"""What a sanitizer is, and what it says of a training set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import final

import torch
from torch import Tensor

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.cost import Cost
from mithridate.data import ImageSet
from mithridate.doubts import Doubt
from mithridate.errors import InputError, NothingAssessedError
from mithridate.rng import rng as generator

MUCH = 0.25
"""A share of the set above which dropping it raises a doubt."""
FEW = 100
"""Images below which a judged class raises a doubt. Of clean classes of 20 images (digits, MNIST)
spectral signatures and activation clustering called 14 of 160 suspicious, of 40 to 80 4 of 280."""


@dataclass(frozen=True, kw_only=True)
class ClassNote:
    """What a filter says of one class.

    Attributes:
        label: the class.
        count, dropped: its images, and how many of them are not kept.
        suspicious: whether the statistic passed the threshold; None where the filter does not
            judge classes, and takes images out of each.
        statistic: what was looked at, in a word.
        value: of the statistic; NaN where there is none.
        threshold: from which on a class is suspicious, or NaN.
        text: what else there is to say.
    """

    label: int
    count: int
    dropped: int
    suspicious: bool | None
    statistic: str
    value: float
    threshold: float
    text: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Filtered:
    """Which images of a training set to keep.

    Attributes:
        sanitizer: the registered name of the filter.
        keep: bool (N,), in the order of the set, also where that is nothing or everything: then
            `doubts` says so.
        score: float64 (N,), higher is more suspicious. Comparable within a class; across
            classes only where the sanitizer says so. Within a class, every image that is not
            kept scores at least as high as every one that is.
        classes: a note per class that has images, in order.
        doubts: why not to trust the mask.
        cost: images forwarded and differentiated, those of trainings included.
    """

    sanitizer: str
    keep: Tensor = field(repr=False)
    score: Tensor = field(repr=False)
    classes: tuple[ClassNote, ...]
    doubts: tuple[Doubt, ...]
    cost: Cost

    @property
    def dropped(self) -> Tensor:
        """Rows that are not kept, ascending, int64."""
        return (~self.keep).nonzero()[:, 0]

    @property
    def suspicious(self) -> tuple[int, ...]:
        """The suspicious classes."""
        return tuple(note.label for note in self.classes if note.suspicious)

    def apply(self, data: ImageSet) -> ImageSet:
        """What is kept of the set that was filtered, to train on.

        Raises:
            InputError: a set of another length.
            NothingAssessedError: nothing is kept.

        >>> data = ImageSet(torch.zeros(2, 1, 1, 1).byte(), [0, 1], ["a", "b"], "set")
        >>> Filtered(
        ...     sanitizer="outliers", keep=torch.tensor([True, False]), score=torch.arange(2.0),
        ...     classes=(), doubts=(), cost=Cost(),
        ... ).apply(data)
        ImageSet('set+outliers', 1 images 1x1x1, 2 classes)
        """
        if len(data) != len(self.keep):
            raise InputError(
                f"{data.name} has {len(data)} images, {len(self.keep)} were filtered: give that set"
            )
        if not bool(self.keep.any()):
            raise NothingAssessedError(
                f"{self.sanitizer} would drop all {len(data)} images: nothing is left to train on"
            )
        return data.subset(self.keep, f"{data.name}+{self.sanitizer}")


class Sanitizer(component.Component, ABC):
    """Filters training data by what a model makes of it. Fields are hyper-parameters.

    `about.needs` holds "clean images" where it can be given some, as the field `trusted`.
    `cost(sizes)` estimates what filtering `sizes.train` images asks for.
    """

    @abstractmethod
    def filter(self, classifier: Classifier, data: ImageSet, *, rng: torch.Generator) -> Filtered:
        """Judge every image; the model and the data stay as they are.

        Args:
            classifier: trained on `data`, poison and all: that is where the traces are.
            data: the training set, labels as they were trained on.
            rng: for what is random; only its seed counts.

        Raises:
            InputError: the model has other classes than the data, or a class too few images.
            NothingAssessedError: the features tell nothing (constant, NaN).
        """

    @final
    def keep(self, classifier: Classifier, data: ImageSet) -> Tensor:
        """Which images to keep, bool (N,): `filter` with seed 0, without its doubts."""
        return self.filter(classifier, data, rng=generator(0)).keep


def check_fit(classifier: Classifier, data: ImageSet, least: int) -> None:
    """Refuse a model of other classes, and a class too small to be judged.

    Raises:
        InputError: which, and what to do.
    """
    if not isinstance(classifier, Classifier):
        raise InputError(
            f"the model is a Classifier, got {type(classifier).__name__}: wrap it in one"
        )
    if not isinstance(data, ImageSet):
        got = type(data).__name__
        raise InputError(f"data is an ImageSet, got {got}: load_data returns two, give one")
    if classifier.classes != data.classes:
        raise InputError(
            f"the model tells {classifier.classes} classes apart, {data.name} has {data.classes}: "
            "take the model that was trained on it"
        )
    shape = classifier.image_shape
    if shape is not None and tuple(shape) != tuple(data.image_shape):
        raise InputError(
            f"the model takes images {tuple(shape)}, {data.name} has {tuple(data.image_shape)}: "
            "take the model that was trained on it"
        )
    for c, count in enumerate(data.labels.bincount(minlength=data.classes).tolist()):
        if 0 < count < least:
            images = "1 image" if count == 1 else f"{count} images"
            raise InputError(
                f"{data.name} has {images} of class {c} ({data.class_names[c]}), a filter needs "
                f"at least {least}: add more, or take the class out"
            )


def present(data: ImageSet) -> list[int]:
    """The classes that have images.

    >>> present(ImageSet(torch.zeros(2, 1, 1, 1).byte(), [2, 0], ["a", "b", "c"]))
    [0, 2]
    """
    counts = data.labels.bincount(minlength=data.classes).tolist()
    return [c for c, count in enumerate(counts) if count]


def note(
    data: ImageSet,
    keep: Tensor,
    c: int,
    statistic: str,
    value: float,
    threshold: float,
    suspicious: bool | None = None,
    text: str = "",
) -> ClassNote:
    """The note of class `c`, once it is settled which of its images are kept."""
    own = data.labels == c
    return ClassNote(
        label=c,
        count=int(own.sum()),
        dropped=int((own & ~keep).sum()),
        suspicious=suspicious,
        statistic=statistic,
        value=value,
        threshold=threshold,
        text=text if suspicious else "",
    )


def conclude(
    sanitizer: Sanitizer,
    data: ImageSet,
    keep: Tensor,
    score: Tensor,
    notes: Sequence[ClassNote],
    cost: Cost,
    doubts: Sequence[Doubt] = (),
) -> Filtered:
    """The result, with the doubts that any filter may raise.

    A mask that keeps nothing is handed out as it is: one that kept all in its place would pass
    a failed filter off as a harmless one.
    """
    doubts, n, gone = list(doubts), len(keep), int((~keep).sum())
    emptied = [data.class_names[each.label] for each in notes if each.dropped == each.count]
    if gone == 0:
        doubts.append(Doubt("found-nothing", f"none of {n} images was found suspicious"))
    elif gone == n:
        doubts.append(
            Doubt("drops-everything", f"all {n} images would go: nothing is left to train")
        )
    elif emptied:
        doubts.append(Doubt("drops-everything", f"no image of {', '.join(emptied)} would be left"))
    elif all(isnan(each.threshold) for each in notes):
        text = "it drops its share of any set, also of a clean one: that images go is no finding"
        doubts.append(Doubt("no-threshold", text))
    judged = [each for each in notes if each.suspicious is not None]
    few = min(judged, key=lambda each: each.count, default=None)
    if few is not None and few.count < FEW:
        text = f"only {few.count} images of class {data.class_names[few.label]}"
        doubts.append(Doubt("few-images", f"{text}: so small a class may look poisoned by chance"))
    if MUCH * n < gone < n:
        share = f"{100 * gone / n:.0f} %"
        doubts.append(Doubt("drops-much", f"{gone} of {n} images would go ({share})"))
    name = component.name_of(sanitizer)
    return Filtered(
        sanitizer=name,
        keep=keep,
        score=score,
        classes=tuple(notes),
        doubts=tuple(doubts),
        cost=cost,
    )


def judge_epochs(images: int) -> int:
    """Epochs for a judge of a filter's own: 30,000 images' worth, but 3 to 30.

    >>> judge_epochs(1024), judge_epochs(30_000)
    (29, 3)
    """
    return min(30, max(3, round(30_000 / max(1, images))))
