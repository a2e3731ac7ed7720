"""BadNets: stamp some training images with a trigger and relabel them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError
from mithridate.poisons.base import (
    Poison,
    Poisoned,
    Trigger,
    check_class_number,
    check_data,
    check_share,
    choose,
    crafting,
    share_of,
    stamp_rows,
)
from mithridate.rng import child


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class BadNets(Poison):
    """Random images of the source class get the trigger and the target's label.

    Gu et al. 2017, "BadNets", section 3. One target: images of `source` (or of every class
    but the target where `source` is None) become `target`. All-to-all: images of every class
    i become (i + 1) mod K. The set is the same size as before and images that were not chosen
    keep their labels, as in Borji 2020; `append` keeps the clean originals too and adds the
    stamped copies behind them, as Gu et al. do. The rows depend on the seed alone, and those of
    a smaller count are among those of a larger one.

    Whether a model is fine-tuned or trained from scratch on the result is the training's
    business: fit a new network for the one, go on with a copy of the clean one for the other.

    Args:
        trigger: a `Trigger`, or its name for `Trigger.named` on the command line.
        target: the class that poisoned images are to be taken for.
        source: the class to poison; None for all but the target.
        count: how many images to poison; or
        fraction: which part of the eligible images, in (0, 1], rounded to whole images.
        all_to_all: relabel i to i + 1; without target and source.
        append: add stamped copies instead of replacing the images.

    Raises:
        InputError: both or neither of count and fraction, no target, source equal to target; in
            use, a class that the data do not have or have no image of, or too few images.

    >>> from mithridate.poisons.triggers import SinglePixel
    >>> data = ImageSet(torch.zeros(6, 1, 4, 4, dtype=torch.uint8), [0, 0, 0, 1, 1, 1], ["a", "b"])
    >>> attack = BadNets(trigger=SinglePixel(), source=0, target=1, count=2)
    >>> poisoned = attack.poison(data, rng=torch.Generator())
    >>> len(poisoned), poisoned.images.labels.sum().item()
    (2, 5)
    """

    about: ClassVar[About] = About(
        paper="Gu et al. 2017, section 3",
        labels="changed",
        trigger="any",
        atlas=("AML.T0020",),
        nist=("023",),
    )

    trigger: Trigger
    target: int | None = None
    source: int | None = None
    count: int | None = None
    fraction: float | None = None
    all_to_all: bool = False
    append: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.trigger, Trigger):
            raise InputError(f"trigger is a Trigger, got {type(self.trigger).__name__}")
        if self.all_to_all:
            if self.target is not None or self.source is not None:
                raise InputError(
                    "all_to_all sends every class to the next: leave out target, source"
                )
        elif self.target is None:
            raise InputError("a backdoor needs a target class: give target, or all_to_all=True")
        check_class_number("target", self.target)
        check_class_number("source", self.source)
        if self.source is not None and self.source == self.target:
            raise InputError(f"source and target are both class {self.source}: choose two classes")
        check_share(self.count, self.fraction)

    def cost(self, sizes: Sizes) -> Work:
        own = sizes.train / sizes.classes
        others = sizes.train if self.all_to_all else sizes.train - own
        eligible = others if self.source is None else own
        return crafting(share_of(eligible, self.count, self.fraction))

    def poison(
        self, data: ImageSet, *, surrogate: Classifier | None = None, rng: torch.Generator
    ) -> Poisoned:
        check_data(data)
        eligible = _eligible(data, self.source, self.target)
        if self.target is not None:
            data.of_class(self.target)  # a target of which there is no image is a mistake
        rows = choose(eligible, self.count, self.fraction, child(rng, "badnets", "rows"))
        trigger = self.trigger.bind(data, self.target)
        stamped = stamp_rows(data, rows, trigger, child(rng, "badnets", "stamp"))
        before = data.labels[rows].clone()
        if self.target is None:
            after = (before + 1) % data.classes
        else:
            after = torch.full_like(before, self.target)
        base, places = data, rows
        if self.append:
            base = data.subset(torch.cat([torch.arange(len(data)), rows]))
            places = torch.arange(len(data), len(base))
        return Poisoned(
            images=base.with_changes(places, stamped, after, f"{data.name}+badnets"),
            indices=places,
            trigger=trigger,
            target=self.target,
            source=self.source,
            original_labels=before,
        )


def poisoned_test(
    data: ImageSet,
    trigger: Trigger,
    *,
    source: int | None = None,
    target: int | None = None,
    others: bool = False,
    rng: torch.Generator,
) -> ImageSet:
    """The fully poisoned test set: every source image stamped, true labels kept.

    Args:
        data: clean test images.
        trigger: as stamped in training, best `Poisoned.trigger`.
        source: the class to stamp; None for every class but the target.
        target: the attack's target; None (with source None) stamps every image: all-to-all.
        others: keep the images that are not stamped too, in their places, as the confusion
            matrix of the poisoned test set needs; else only the stamped ones are returned,
            as the attack success rate needs.

    >>> from mithridate.poisons.triggers import SinglePixel
    >>> data = ImageSet(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), [0, 1, 1], ["a", "b"])
    >>> len(poisoned_test(data, SinglePixel(), source=1, target=0, rng=torch.Generator()))
    2
    """
    check_data(data)
    rows = _eligible(data, source, target)
    stamped = stamp_rows(data, rows, trigger.bind(data, target), child(rng, "poisoned-test"))
    name = f"{data.name}+trigger"
    changed = data.with_changes(rows, stamped, None, name)
    return changed if others else changed.subset(rows, name)


def _eligible(data: ImageSet, source: int | None, target: int | None) -> Tensor:
    """Rows that the attack may stamp, ascending."""
    for name, value in (("target", target), ("source", source)):
        check_class_number(name, value)
        if value is not None and value >= data.classes:
            raise InputError(
                f"{name} {value} is not a class of {data.name}: they are 0 to {data.classes - 1}"
            )
    if source is not None:
        return data.of_class(source)
    rows = (data.labels != (-1 if target is None else target)).nonzero()[:, 0]
    if len(rows) == 0:
        raise InputError(f"{data.name} holds nothing but the target class {target}")
    return rows
