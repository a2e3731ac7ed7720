"""FMN: gradient steps on a ball whose radius follows the boundary, in any norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import (
    AnyNorm,
    Closest,
    Count,
    Fraction,
    Positive,
    RowSearch,
    crossed,
)
from mithridate.attacks.losses import Margin
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal
from mithridate.norms import L0, L1, L2, LINF

DUAL = {L1: LINF, L2: L2, LINF: L1}
"""How far the boundary is: the margin over its gradient's size in the dual norm."""
STEP = {L0: 10.0, L1: 10.0, L2: 1.0, LINF: 10.0}
"""Length in L2 of the first step."""


@dataclass(frozen=True, kw_only=True)
class FMN(RowSearch):
    """Fast minimum-norm attack (Pintor et al. 2021, algorithm 1).

    Each step goes down the difference of logits and is projected on a ball around x. Before
    the first success its radius is the distance at which the linearised boundary lies; then it
    shrinks by gamma where the point is adversarial, below the best distance, and grows by gamma
    where not. In L0 it starts at one value, and changes by one at least. Step and gamma fall to
    a hundredth by a cosine.

    Deviations: before the first success the radius goes a share gamma beyond the linearised
    boundary, as a row on it would stay there for good; in L1 it projects on ball and box at once;
    an adversarial point is one beyond rounding (`crossed`); a row that has reached its goal at
    the start is left as it is. It starts at the image, and not at an image of another class.

    Args:
        norm: L2, LINF, L1 or L0.
        steps: passes, at least 1.
        step_size: length of the first step in L2, above 0; None for 1 in L2, else 10.
        gamma: relative change of the radius in the first step, in (0, 1).

    Raises:
        InputError: a value out of range, or another norm.

    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.6, 0.5]]]]), torch.Generator()
    >>> near = FMN(norm=LINF, steps=50).perturb(model, x, Untargeted([0]), rng=rng)
    >>> round(LINF.distance(near, x).item(), 3)  # the nearest point
    0.05
    """

    about: ClassVar[About] = About(
        paper="Pintor et al. 2021, algorithm 1",
        kind="minimal",
        norms=("l2", "linf", "l1", "l0"),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    norm: AnyNorm = L2
    steps: Count = 300
    step_size: Positive | None = None
    gamma: Fraction = 0.05

    def cost(self, sizes: Sizes) -> Work:
        return Work(forwards=sizes.test, gradients=sizes.test * self.steps)

    def search(self, model: Classifier, x: Tensor, goal: Goal) -> Tensor:
        norm, first = self.norm, self.step_size or STEP[self.norm]
        point, closest = x, Closest(x, norm)
        radius = torch.ones_like(closest.size) if norm is L0 else closest.size
        for k in range(self.steps):
            gradient, logits = model.gradient(point, Margin(goal))
            won = crossed(goal, logits)
            size, least = closest.see(point, won), closest.size

            share = 0.01 + 0.99 * (1 + math.cos(math.pi * k / self.steps)) / 2
            gamma = self.gamma * share
            if norm is L0:
                less = (radius - 1).minimum((radius * (1 - gamma)).floor()).minimum(least)
                more = (radius + 1).maximum((radius * (1 + gamma)).floor())
            else:
                slope = DUAL[norm].size(gradient).clamp(min=1e-12)
                ahead = size + goal.margin(logits).abs() / slope
                less = (radius * (1 - gamma)).minimum(least)
                more = torch.where(least.isfinite(), radius, ahead) * (1 + gamma)
            radius = torch.where(won, less, more)
            moved = point - first * share * L2.steepest(gradient)
            point = norm.inside(moved, x, radius)
        return closest.last(model, point, goal)
