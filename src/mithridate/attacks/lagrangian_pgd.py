"""Lagrangian PGD: to the goal and past the detector, each weighed as much as it still stops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from mithridate.attacks.base import BoundedAttack, Count, Near, pick
from mithridate.attacks.losses import OfGoal
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal, Rows
from mithridate.norms import LINF

START, STEP = 0.1, 0.05
"""Radius of the random start and length of the first step, over eps."""
BEYOND, BELOW = 0.5, 0.02
"""Logits by which the goal is to be passed, and *rejected* to stay below the best answer."""
GROWTH = 1.05
"""What a step multiplies or divides the weight of *rejected* by."""
MOMENTUM = 0.75
"""Share of the earlier slopes in the mean that a step follows."""


@dataclass(frozen=True, kw_only=True)
class LagrangianPGD(BoundedAttack):
    """PGD at a model that rejects, with a weight between classifier and detector for each image.

    Minimises the margin among the classes that answer plus `weight` times the lead of *rejected*
    over them, each only where it is not yet won (the two losses of Carlini and Wagner 2017,
    "Adversarial examples are not easily detected", section 3.3). The weight grows while the image
    is rejected, and shrinks while it is not but is still answered rightly. With a fixed one, as
    in any joint loss, the two rest where they balance, short of both.

    Deviations: projected steps along a mean of slopes, which shrink linearly, in place of a
    search over a constant; they begin close to the image, as noise of the whole ball is far from
    what a detector lets pass. At a model that rejects nothing it is such a PGD on the margin.

    Args:
        eps: radius of the ball, at least 0.
        norm: LINF or L2.
        steps: gradients per restart, at least 1.
        restarts: random starts to try, at least 1.
        stop_at_goal: a row that reached its goal takes no further step; else all take every
            step, and the point of the smallest margin is kept.

    Raises:
        InputError: a value out of range, another norm.

    >>> LagrangianPGD(eps=0.3)
    LagrangianPGD(eps=0.3, norm=linf, steps=300, restarts=1, stop_at_goal=True)
    """

    about: ClassVar[About] = About(
        paper="Carlini and Wagner 2017 (detection), section 3.3; own step rule",
        kind="bounded",
        norms=("linf", "l2"),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    copies: ClassVar[int] = 20
    norm: Near = LINF
    steps: Count = 300
    restarts: Count = 1
    stop_at_goal: bool = True

    def cost(self, sizes: Sizes) -> Work:
        runs = sizes.test * self.restarts
        return Work(forwards=runs, gradients=runs * self.steps)

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        best = x.detach().clone()
        with model.frozen(), torch.no_grad():
            smallest = goal.margin(model.logits(best))
            for _ in range(self.restarts):
                start = (x + self.norm.sample(x, START * self.eps, rng)).clamp_(0, 1)
                left = (~self._done(smallest)).nonzero()[:, 0]
                if len(left) == 0:
                    break
                with model.cost.on_rows(left):
                    end, margin = self._run(model, x[left], goal[left], start[left])
                best[left] = pick(margin < smallest[left], end, best[left])
                smallest[left] = margin.minimum(smallest[left])
        return best

    def _run(
        self, model: Classifier, x: Tensor, goal: Goal, point: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The points of the smallest margin, and these margins (N,)."""
        best, smallest = point.clone(), x.new_full((len(x),), float("inf"))
        rows, weight = torch.arange(len(x), device=x.device), x.new_ones(len(x))
        mean = torch.zeros_like(x)
        for k in range(self.steps + 1):
            last = k == self.steps
            with model.cost.on_rows(rows):
                if last:
                    logits = model.logits(point)
                else:
                    slope, logits = model.gradient(point, _Weighed(goal, weight))
            margin = goal.margin(logits)
            best[rows] = pick(margin < smallest[rows], point, best[rows])
            smallest[rows] = margin.minimum(smallest[rows])
            if last:
                break
            mean = mean.lerp(slope, 1 - MOMENTUM)
            answer, refusal = _apart(goal, logits)
            weight = torch.where(refusal > 0, weight * GROWTH, weight)
            weight = torch.where((refusal <= 0) & (answer > 0), weight / GROWTH, weight)
            going = (~self._done(margin)).nonzero()[:, 0]
            if len(going) == 0:
                break
            rows, goal = rows[going], goal[going]
            x, point, weight, mean = (t[going] for t in (x, point, weight, mean))
            step = self.norm.step(-mean, point, STEP * self.eps * (1 - k / self.steps))
            point = self.norm.inside(point + step, x, self.eps)
        return best, smallest

    def _done(self, margin: Tensor) -> Tensor:
        return margin < (0.0 if self.stop_at_goal else float("-inf"))


@dataclass(frozen=True)
class _Weighed(OfGoal):
    weight: Tensor

    def __getitem__(self, rows: Rows) -> Self:
        return replace(self, goal=self.goal[rows], weight=self.weight[rows])

    def loss(self, logits: Tensor) -> Tensor:
        answer, refusal = _apart(self.goal, logits)
        beyond, below = (answer + BEYOND).clamp(min=0), (refusal + BELOW).clamp(min=0)
        return beyond + self.weight * below


def _apart(goal: Goal, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The margin among the classes that answer, and the lead of *rejected* over these, (N,)."""
    if goal.rejected is None:
        return goal.margin(logits), logits.new_full((len(logits),), -BELOW)
    answers = logits.clone()
    answers[:, goal.rejected] = float("-inf")
    return goal.margin(answers), logits[:, goal.rejected] - answers.amax(1)
