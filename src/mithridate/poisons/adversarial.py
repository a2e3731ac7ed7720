"""Adversarial examples as training data: a set that teaches a model the wrong features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate.attacks.pgd import PGD
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError, check_whole
from mithridate.goals import Goal, Targeted, Untargeted
from mithridate.norms import LINF, Norm
from mithridate.poisons.base import Poisoned, check_share, choose, crafting, share_of
from mithridate.poisons.crafted import CraftedPoison, full_pgd, perturb_rows
from mithridate.rng import child


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class AdversarialPoisons(CraftedPoison):
    """Every image becomes an adversarial example of the surrogate and keeps its true label.

    Fowl et al. 2021, "Adversarial Examples Make Strong Poisons", section 3. Class-targeted: PGD
    moves an image of class y toward class (y + shift) mod K, so that a model trained on the set
    takes the features of y + shift for y, and its accuracy on clean images falls. Untargeted:
    away from y. There is no trigger.

    Deviations from the authors' code, which shifts by 1, too: no differentiable augmentation
    while crafting; one start, where it takes the best of 8; images are rounded to 256 levels
    within eps.

    Args:
        eps: radius of the ball, pixels in [0, 1].
        norm: linf in the paper.
        steps: passes, at least 1; 250 in the authors' code.
        step_size: length of a step; None for 2.5 eps / steps, enough to cross the ball. Theirs is
            0.05 eps.
        shift: from a class to the one its images are moved toward; None for untargeted.
        fraction: which part of the set to perturb, in (0, 1]; 1 is the paper's.

    Raises:
        InputError: a value out of range.

    >>> from torch import nn
    >>> data = ImageSet(torch.full((4, 1, 4, 4), 99).byte(), [0, 0, 1, 1], ["a", "b"])
    >>> model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), classes=2)
    >>> poisoned = AdversarialPoisons(steps=3).poison(data, surrogate=model, rng=torch.Generator())
    >>> len(poisoned), poisoned.relabelled.any().item()
    (4, False)
    """

    about: ClassVar[About] = About(
        paper="Fowl et al. 2021, section 3",
        needs=("surrogate",),
        labels="kept",
        trigger="none: accuracy falls",
        atlas=("AML.T0020",),
        nist=("013", "012"),
    )

    eps: float = 8 / 255
    norm: Norm = LINF
    steps: int = 250
    step_size: float | None = None
    shift: int | None = 1
    fraction: float = 1.0

    def __post_init__(self) -> None:
        check_share(None, self.fraction)
        self.attack()
        if self.shift is not None:
            check_whole("shift", self.shift)

    def cost(self, sizes: Sizes) -> Work:
        return crafting(share_of(sizes.train, None, self.fraction), passes=self.steps)

    def attack(self) -> PGD:
        """The attack that crafts: every step taken."""
        return full_pgd(self.eps, self.norm, self.steps, self.step_size)

    def craft(self, data: ImageSet, surrogate: Classifier, *, rng: torch.Generator) -> Poisoned:
        shift, classes = self.shift, data.classes
        if shift is not None and shift % classes == 0:
            raise InputError(
                f"shift {shift} leads every one of {classes} classes to itself: take another, "
                "or none for untargeted"
            )

        def goal(labels: Tensor) -> Goal:
            return Untargeted(labels) if shift is None else Targeted((labels + shift) % classes)

        every = torch.arange(len(data))
        rows = choose(every, None, self.fraction, child(rng, "adversarial-poisons", "rows"))
        crafting = child(rng, "adversarial-poisons", "craft")
        pixels = perturb_rows(self.attack(), surrogate, data, rows, goal, rng=crafting)
        poisoned = Poisoned(
            images=data.with_changes(rows, pixels, None, f"{data.name}+adversarial-poisons"),
            indices=rows,
            original_labels=data.labels[rows].clone(),
        )
        assert torch.equal(poisoned.images.labels, data.labels), "labels are not to change"
        return poisoned
