"""Sigma-zero: a smooth count of changed values, and a threshold that follows the boundary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import (
    Closest,
    Count,
    Fraction,
    Positive,
    RowSearch,
    crossed,
    per_row,
)
from mithridate.attacks.losses import OfGoal
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal
from mithridate.norms import L0, LINF


class _Missing(OfGoal):
    """The margin still missing to the goal, or 0."""

    def loss(self, logits: Tensor) -> Tensor:
        return self.goal.margin(logits).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class SigmaZero(RowSearch):
    """Fewest changed values by gradient (Cinà et al. 2025, algorithm 1).

    Goes down the margin that is still missing, and the smooth count `sum d^2 / (d^2 + sigma)` of
    the changes d as a share of all values, by a gradient whose largest value is 1; sets changes
    below a threshold to 0; raises the threshold where the point is adversarial, lowers it where
    not. Steps are Adam's, as in the authors' experiments, and fall to a tenth by a cosine.

    Deviation: the loss of a point that is not adversarial has no constant added: its gradient is 0.

    Args:
        steps: passes, at least 1.
        step_size: largest change of a value in the first step, above 0; falls to a tenth.
        sigma: how smooth the count is, above 0.
        threshold: of the first step, in (0, 1).
        pace: change of the threshold a step, as a share of `step_size`, above 0.

    Raises:
        InputError: a value out of range.

    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.6, 0.5]]]]), torch.Generator()
    >>> near = SigmaZero(steps=100).perturb(model, x, Untargeted([0]), rng=rng)
    >>> int((near != x).sum())
    1
    """

    about: ClassVar[About] = About(
        paper="Cinà et al. 2025, algorithm 1",
        kind="minimal",
        norms=("l0",),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    steps: Count = 300
    step_size: Positive = 1.0
    sigma: Positive = 1e-3
    threshold: Fraction = 0.3
    pace: Positive = 0.01

    def cost(self, sizes: Sizes) -> Work:
        return Work(forwards=sizes.test, gradients=sizes.test * self.steps)

    def search(self, model: Classifier, x: Tensor, goal: Goal) -> Tensor:
        point, closest, values = x, Closest(x, L0), x[0].numel()
        mean, square = torch.zeros_like(x), torch.zeros_like(x)
        threshold = x.new_full((len(x),), self.threshold)
        for k in range(self.steps):
            gradient, logits = model.gradient(point, _Missing(goal))
            won = crossed(goal, logits)
            closest.see(point, won)

            delta, pace = point - x, 0.1 + 0.9 * (1 + math.cos(math.pi * k / self.steps)) / 2
            count = 2 * self.sigma * delta / (delta**2 + self.sigma) ** 2
            gradient = gradient + count / values
            gradient = gradient / per_row(LINF.size(gradient).clamp(min=1e-12))
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            scale = (square / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8
            step = self.step_size * pace * mean / (1 - 0.9 ** (k + 1)) / scale
            delta = (point - step).clamp_(0, 1) - x
            point = x + torch.where(delta.abs() < per_row(threshold), 0, delta)
            turn = torch.where(won, self.pace, -self.pace) * self.step_size * pace
            threshold = (threshold + turn).clamp(0, 1)
        return closest.last(model, point, goal)
