"""Single-step adversarial training: noise, then one step of the gradient's sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate.attacks.fast_gradient import descend
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.defenses.harden.adversarial import ByImages
from mithridate.errors import check_number
from mithridate.goals import Untargeted


@final
@dataclass(frozen=True, kw_only=True)
class FastAdversarialTraining(ByImages):
    """One step of 1.25 eps from a random point of the ball (Wong et al. 2020, algorithm 3).

    The image is clipped to the ball and to [0, 1]. Prone to catastrophic overfitting, which the
    canary undoes. Deviation: the gradient is taken in evaluation mode.

    Args:
        step: length of the step, in eps, above 0.

    >>> FastAdversarialTraining(eps=0.3).step
    1.25
    """

    about: ClassVar[About] = About(
        paper="Wong et al. 2020, algorithm 3", norms=("linf", "l2", "l1"), atlas=("AML.M0003",)
    )

    step: float = 1.25

    def check(self) -> None:
        check_number("step", self.step, low=0, open_low=True)

    @property
    def passes(self) -> float:
        return self.ratio

    def attacked(
        self, model: Classifier, x: Tensor, y: Tensor, *, part: float, rng: torch.Generator
    ) -> Tensor:
        eps = self.eps_at(part)
        start = (x + self.norm.sample(x, eps, rng)).clamp_(0, 1)
        return descend(
            model,
            x,
            Untargeted(y),
            step_size=self.step * eps,
            steps=1,
            eps=eps,
            norm=self.norm,
            start=start,
        )


@final
@dataclass(frozen=True, kw_only=True)
class NFGSM(ByImages):
    """One step of eps from noise of 2 eps, not brought back to the ball (de Jorge et al. 2022).

    Noisy and attacked image are clipped to [0, 1], and to nothing else: an image may lie
    (noise + step) eps away. Deviation: the gradient is taken in evaluation mode.

    Args:
        noise: size of the uniform noise, in eps, at least 0; theirs is 2 up to eps 16/255.
        step: length of the step, in eps, above 0.

    >>> NFGSM(eps=8 / 255).noise
    2.0
    """

    about: ClassVar[About] = About(
        paper="de Jorge et al. 2022, algorithm 1", norms=("linf", "l2", "l1"), atlas=("AML.M0003",)
    )

    noise: float = 2.0
    step: float = 1.0

    def check(self) -> None:
        check_number("noise", self.noise, low=0)
        check_number("step", self.step, low=0, open_low=True)

    @property
    def passes(self) -> float:
        return self.ratio

    def attacked(
        self, model: Classifier, x: Tensor, y: Tensor, *, part: float, rng: torch.Generator
    ) -> Tensor:
        eps = self.eps_at(part)
        start = (x + self.norm.sample(x, self.noise * eps, rng)).clamp_(0, 1)
        step = self.step * eps
        return descend(
            model, x, Untargeted(y), step_size=step, steps=1, norm=self.norm, start=start
        )
