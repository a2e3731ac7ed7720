"""Adversarial training: every batch is attacked by PGD before it is learned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate.attacks.pgd import PGD
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.defenses.harden.adversarial import ByImages
from mithridate.errors import check_number
from mithridate.goals import Untargeted


@final
@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(ByImages):
    """Minimise the loss on images that PGD made to maximise it (Madry et al. 2018, section 2).

    PGD starts at a random point of the ball and takes every step, on the model as it is at that
    batch, in evaluation mode (without dropout, with running statistics). One step is Goodfellow
    et al. 2015, with a random start; `ratio` or `clean` mixes clean images in, as they do.

    Deviation: eps grows in a line over the first `ramp` of the training. At a large eps from the
    first batch on, small networks fall to a constant answer; `ramp=0` is as published.

    Args:
        steps: passes per batch, at least 1; theirs are 40 on MNIST and 7 on CIFAR-10.
        step_size: length of a step; None for 2.5 eps / steps. It grows as eps does.

    Raises:
        InputError: a value out of range.

    >>> from mithridate.data import ImageSet
    >>> from mithridate.networks import create
    >>> data = ImageSet(torch.zeros(4, 1, 8, 8).byte(), [0, 1, 0, 1], ["even", "odd"])
    >>> net = create("digits-cnn", image_shape=(1, 8, 8), classes=2)
    >>> way = AdversarialTraining(eps=0.2, steps=2)
    >>> model = way.train(net, data, epochs=1, rng=torch.Generator())
    >>> model.info["training"]["hardening"]["eps"]
    0.2
    """

    about: ClassVar[About] = About(
        paper="Madry et al. 2018, section 2",
        norms=("linf", "l2", "l1"),
        atlas=("AML.M0003",),
    )
    version: ClassVar[int] = 2

    steps: int = 7
    step_size: float | None = None

    def check(self) -> None:
        check_number("steps", self.steps, low=1)
        self.attack(1.0)

    @property
    def passes(self) -> float:
        return self.ratio * self.steps

    def attack(self, part: float) -> PGD:
        """The attack when `part` of the training is done.

        >>> AdversarialTraining(eps=0.3, ramp=0.5).attack(0.25).eps
        0.15
        """
        eps = self.eps_at(part)
        step = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        return PGD(
            eps=eps,
            norm=self.norm,
            steps=self.steps,
            step_size=eps / self.eps * step,
            stop_at_goal=False,
        )

    def attacked(
        self, model: Classifier, x: Tensor, y: Tensor, *, part: float, rng: torch.Generator
    ) -> Tensor:
        return self.attack(part).perturb(model, x, Untargeted(y), rng=rng)
