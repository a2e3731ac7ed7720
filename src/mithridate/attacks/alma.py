"""ALMA: an augmented Lagrangian whose weight follows whether the boundary was crossed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import (
    Closest,
    Count,
    Fraction,
    Positive,
    RowSearch,
    crossed,
    one_of,
    per_row,
)
from mithridate.attacks.losses import DLR
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal
from mithridate.norms import L1, L2, Norm

EVERY = 10
"""M: steps between two looks at the penalty."""
FALLS = 0.95
"""tau: the margin must have fallen to this share since, or the penalty grows."""
GROWTH = 1.2
"""gamma: of the penalty."""
SMOOTH = 0.9
"""alpha: share of the old multiplier in the new."""
LEAST, MOST = 1e-6, 1e12
"""Bounds of the multiplier."""
MEMORY = 0.99
"""Largest share of the old mean square of the gradient in the new."""


class Multiplier:
    """What a margin weighs beside a distance, row by row (the paper's section 3).

    Attributes:
        mu: multiplier, (N,), the running mean of the penalty's slope.
        rho: weight of the penalty, (N,).

    >>> weight = Multiplier(torch.ones(3))
    >>> weight.slope(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([0.2500, 1.0000, 3.5000])
    """

    def __init__(self, mu: Tensor) -> None:
        self.mu, self.rho = mu, torch.ones_like(mu)
        self.seen = torch.zeros_like(mu, dtype=torch.bool)
        self.before = torch.full_like(mu, float("inf"))

    def slope(self, margin: Tensor) -> Tensor:
        """Of the penalty P2 of Birgin et al. 2005, by margins m (N,).

        P2 is `mu m + mu rho m^2 + rho^2 m^3 / 6` from 0 on and `mu m / (1 - rho m)` below: the
        slope is mu at 0, grows beyond it, and vanishes far inside.
        """
        mu, rho = self.mu, self.rho
        above = mu + 2 * mu * rho * margin + rho**2 * margin**2 / 2
        return torch.where(margin >= 0, above, mu / (1 - rho * margin.clamp(max=0)) ** 2)

    def see(self, k: int, margin: Tensor, won: Tensor) -> Tensor:
        """Step k is at these margins (N,), of which those of `won` are adversarial; the slope."""
        slope = self.slope(margin)
        if k:
            self.mu = (SMOOTH * self.mu + (1 - SMOOTH) * slope).clamp(LEAST, MOST)
        self.seen = self.seen | won
        if k % EVERY == EVERY - 1:
            stuck = ~self.seen & (margin > FALLS * self.before)
            self.rho = torch.where(stuck, GROWTH * self.rho, self.rho)
            self.seen, self.before = torch.zeros_like(won), margin
        return slope


@dataclass(frozen=True, kw_only=True)
class ALMA(RowSearch):
    """Augmented Lagrangian method for adversarial attacks (Rony et al. 2021, algorithm 2).

    Minimises the distance (its square in L2) under the constraint that the margin, as a ratio
    of logits, is negative: RMSProp with momentum on distance + penalty(margin). The multiplier
    mu is the running mean of the penalty's slope; the penalty's weight rho grows by 1.2 every
    ten steps in which no point was adversarial and the margin did not fall by 5 %. Steps shorten
    exponentially, to a hundredth.

    Deviations: in L1, of the slopes at a value that is not changed the smallest counts, and a
    change that would turn its sign ends at 0; the paper's other distances (CIEDE2000, LPIPS,
    SSIM) are no norms, and are left out; the first step has a size for each value, and no length
    found by trial. A row that has reached its goal at the start is left as it is.

    Args:
        norm: L2 or L1.
        steps: passes, at least 1; the paper's 100 or 1000.
        step_size: change of a value in the first step, above 0.
        momentum: share of the last move in the next, in (0, 1).

    Raises:
        InputError: a value out of range, or another norm.

    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.6, 0.5]]]]), torch.Generator()
    >>> near = ALMA().perturb(model, x, Untargeted([0]), rng=rng)
    >>> round(L2.distance(near, x).item(), 2)  # the nearest point is at 0.1 / sqrt(2)
    0.07
    """

    about: ClassVar[About] = About(
        paper="Rony et al. 2021, algorithm 2",
        kind="minimal",
        norms=("l2", "l1"),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    copies: ClassVar[int] = 20
    norm: Annotated[Norm, one_of(L2, L1)] = L2
    steps: Count = 300
    step_size: Positive = 0.1
    momentum: Fraction = 0.9

    def cost(self, sizes: Sizes) -> Work:
        return Work(forwards=sizes.test, gradients=sizes.test * self.steps)

    def search(self, model: Classifier, x: Tensor, goal: Goal) -> Tensor:
        point, closest, margin = x, Closest(x, self.norm), DLR(goal)
        weight = Multiplier(torch.ones_like(closest.size))
        square, move = torch.zeros_like(x), torch.zeros_like(x)
        for k in range(self.steps):
            pull, logits = model.gradient(point, margin)
            won = crossed(goal, logits)
            closest.see(point, won)
            slope = weight.see(k, margin.loss(logits), won)

            delta, gradient = point - x, per_row(slope) * pull
            if self.norm is L2:
                gradient = gradient + 2 * delta
            else:
                least = gradient.sign() * (gradient.abs() - 1).clamp(min=0)
                gradient = torch.where(delta == 0, least, gradient + delta.sign())
            old = min(MEMORY, 1 - 1 / (k + 1))
            square = old * square + (1 - old) * gradient**2
            move = self.momentum * move + gradient / (square.sqrt() + 1e-8)
            moved = delta - self.step_size * 0.01 ** (k / self.steps) * move
            if self.norm is L1:
                still = (moved * delta < 0) | ((delta == 0) & (gradient == 0))
                moved, move = torch.where(still, 0, moved), torch.where(still, 0, move)
            point = (x + moved).clamp_(0, 1)
        return closest.last(model, point, goal)
