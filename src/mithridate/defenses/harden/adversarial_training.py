"""Adversarial training: every batch is attacked before it is learned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from mithridate import component
from mithridate.attacks.base import check_eps
from mithridate.attacks.pgd import PGD
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.harden.base import Hardener
from mithridate.errors import InputError, check_number
from mithridate.goals import Untargeted
from mithridate.norms import LINF, Norm
from mithridate.training import Progress, fit


@final
@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(Hardener):
    """Minimise the loss on images that PGD made to maximise it (Madry et al. 2018, section 2).

    PGD starts at a random point of the ball and takes every step, on the model as it is at that
    batch, in evaluation mode (without dropout, with running statistics). One step is Goodfellow
    et al. 2015, with a random start; `ratio` below 1 mixes clean images in, as they do.

    Deviation: eps grows in a line over the first `ramp` of the training. At a large eps from the
    first batch on, small networks fall to a constant answer; `ramp=0` is as published.

    Args:
        eps: radius of the ball, pixels in [0, 1]; Madry et al. have 0.3 on MNIST and 8/255 on
            CIFAR-10.
        norm: linf or l2 (or l1).
        steps: passes per batch, at least 1; theirs are 40 on MNIST and 7 on CIFAR-10.
        step_size: length of a step; None for 2.5 eps / steps. It grows as eps does.
        ratio: share of each batch that is attacked, in (0, 1]; rounded, and one image at least.
        ramp: share of the training over which eps grows, in [0, 1].

    Raises:
        InputError: a value out of range.

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

    eps: float
    norm: Norm = LINF
    steps: int = 7
    step_size: float | None = None
    ratio: float = 1.0
    ramp: float = 1 / 3

    def __post_init__(self) -> None:
        check_eps(self.eps, self.norm)
        if self.eps == 0:
            raise InputError("eps 0 attacks nothing: raise it, or train without hardening")
        check_number("ratio", self.ratio, low=0, high=1, open_low=True)
        check_number("ramp", self.ramp, low=0, high=1)
        check_number("steps", self.steps, low=1)
        self.attack(1.0)

    @classmethod
    def usual(cls, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        return {"eps": 0.3 if image_shape[0] == 1 else 8 / 255}

    def cost(self, sizes: Sizes) -> Work:
        return Work(gradients=round(self.ratio * sizes.train) * self.steps)

    def train(
        self,
        network: nn.Module | Classifier,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Classifier:
        return fit(network, data, rng=rng, progress=progress, hardening=self, **settings)

    def attack(self, part: float) -> PGD:
        """The attack when `part` of the training is done.

        >>> AdversarialTraining(eps=0.3, ramp=0.5).attack(0.25).eps
        0.15
        """
        reached = 1.0 if self.ramp == 0 else min(1.0, part / self.ramp)
        step = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        # Never 0: PGD takes steps of a length.
        scale = max(reached, 1e-3)
        return PGD(
            eps=scale * self.eps,
            norm=self.norm,
            steps=self.steps,
            step_size=scale * step,
            stop_at_goal=False,
        )

    def record(self) -> Mapping[str, Any]:
        return {"name": component.name_of(self), **component.values(self)}

    def harden(
        self, model: Classifier, x: Tensor, y: Tensor, *, part: float, rng: torch.Generator
    ) -> Tensor:
        """A batch of which the first images, by `ratio`, are attacked; batches are shuffled."""
        count = max(1, round(self.ratio * len(x)))
        with model.frozen():
            attacked = self.attack(part).perturb(model, x[:count], Untargeted(y[:count]), rng=rng)
        return torch.cat([attacked, x[count:]])
