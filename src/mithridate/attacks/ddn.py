"""DDN: the direction comes from the gradient, the norm from whether the last point crossed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import Count, Fraction, Positive, RowSearch, crossed, per_row
from mithridate.attacks.losses import LogOdds
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal
from mithridate.norms import L2


@dataclass(frozen=True, kw_only=True)
class DDN(RowSearch):
    """Decoupled direction and norm, in L2 (Rony et al. 2019, algorithm 1).

    One pass a step, and no constant to search for: the point lies on a sphere around x whose
    radius shrinks by gamma where it is adversarial and grows by gamma where not, while it
    turns down the loss.

    Deviations: pixels are not rounded to 256 levels (the paper's Q: `run_attack(quantize=8)`
    does, for every attack), and a row that has reached its goal at the start is left as it is.

    Args:
        steps: passes, at least 1; the paper's 100, 300 or 1000.
        gamma: relative change of the radius a step, in (0, 1).
        step_size: length of the first step, above 0; decays to `step_size` / 100 by a cosine.
        radius: of the first sphere, above 0.

    Raises:
        InputError: a value out of range.

    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.6, 0.5]]]]), torch.Generator()
    >>> near = DDN(steps=100).perturb(model, x, Untargeted([0]), rng=rng)
    >>> round(L2.distance(near, x).item(), 2)  # the nearest point is at 0.1 / sqrt(2)
    0.07
    """

    about: ClassVar[About] = About(
        paper="Rony et al. 2019, algorithm 1",
        kind="minimal",
        norms=("l2",),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    version: ClassVar[int] = 2
    steps: Count = 100
    gamma: Fraction = 0.05
    step_size: Positive = 1.0
    radius: Positive = 1.0

    def cost(self, sizes: Sizes) -> Work:
        return Work(gradients=sizes.test * self.steps)

    def search(self, model: Classifier, x: Tensor, goal: Goal) -> Tensor:
        point, best = x, x.clone()
        smallest = x.new_full((len(x),), float("inf"))
        radius = x.new_full((len(x),), self.radius)
        for k in range(self.steps):
            gradient, logits = model.gradient(point, LogOdds(goal))
            won = crossed(goal, logits)
            distance = L2.distance(point, x)
            better = won & (distance < smallest)
            smallest = torch.where(better, distance, smallest)
            best[better] = point[better]

            cosine = (1 + math.cos(math.pi * k / self.steps)) / 2
            step = self.step_size * (0.01 + 0.99 * cosine)
            radius = radius * torch.where(won, 1 - self.gamma, 1 + self.gamma)
            direction = L2.steepest(point - x - step * L2.steepest(gradient))
            point = (x + per_row(radius) * direction).clamp_(0, 1)
        with torch.no_grad():
            won = crossed(goal, model.logits(point))
        better = won & (L2.distance(point, x) < smallest)
        best[better] = point[better]
        return best
