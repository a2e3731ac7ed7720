"""Projected gradient descent: the fast-gradient loop from random starts, with restarts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import BoundedAttack, check_eps, grey
from mithridate.attacks.fast_gradient import descend
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.errors import InputError, check_number
from mithridate.goals import Goal
from mithridate.norms import LINF, Norm


@dataclass(frozen=True, kw_only=True)
class PGD(BoundedAttack):
    """Steepest descent of the goal's loss, projected on the eps ball (Madry et al. 2018, 2.1).

    Deviations: by default a row that reached its goal stops (same success, less work, smaller
    distance) and a restart attacks only the rows that are left. With `stop_at_goal=False` every
    row takes every step and ends at the last iterate, as published, which adversarial training
    wants; of several restarts it keeps the one of the smallest margin.

    Args:
        eps: radius of the ball, at least 0.
        norm: LINF (sign steps), L2 (normalised gradients) or L1 (one coordinate a step).
        steps: passes per restart, at least 1.
        step_size: length of a step, above 0.
        restarts: random starts to try, at least 1.
        random_start: begin at a uniform draw from the ball (clipped to [0, 1]), not at x.
        stop_at_goal: see above.

    Raises:
        InputError: a value out of range, or restarts without a random start.

    >>> PGD(eps=0.3, steps=40, step_size=0.01).restarts
    1
    """

    about: ClassVar[About] = About(
        paper="Madry et al. 2018, section 2.1",
        kind="bounded",
        norms=("linf", "l2", "l1"),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    norm: Norm = LINF
    steps: int
    step_size: float
    restarts: int = 1
    random_start: bool = True
    stop_at_goal: bool = True

    def __post_init__(self) -> None:
        check_eps(self.eps, self.norm)
        check_number("steps", self.steps, low=1)
        check_number("step_size", self.step_size, low=0, open_low=True)
        check_number("restarts", self.restarts, low=1)
        if self.restarts > 1 and not self.random_start:
            raise InputError(
                f"{self.restarts} restarts from the same point give the same images: "
                "set random_start, or restarts=1"
            )

    @classmethod
    def usual(cls, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        step_size, steps = (0.01, 40) if grey(image_shape) else (2 / 255, 20)
        return super().usual(image_shape) | {"step_size": step_size, "steps": steps}

    def cost(self, sizes: Sizes) -> Work:
        again = sizes.test * (self.restarts - 1)
        return Work(forwards=again, gradients=sizes.test * self.steps * self.restarts)

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        if not self.stop_at_goal:
            return self._all_steps(model, x, goal, rng)
        best, left = x.detach().clone(), torch.arange(len(x), device=x.device)
        for _ in range(self.restarts):
            start = self._start(x, rng)
            if not self.random_start:
                return self._descend(model, x, goal, start)
            with model.cost.on_rows(left):
                left = left[~goal[left].reached(model.labels(best[left]))]
            if len(left) == 0:
                return best
            with model.cost.on_rows(left):
                best[left] = self._descend(model, x[left], goal[left], start[left])
        return best

    def _all_steps(self, model: Classifier, x: Tensor, goal: Goal, rng: torch.Generator) -> Tensor:
        best = self._descend(model, x, goal, self._start(x, rng))
        if self.restarts == 1:
            return best
        smallest = _margin(model, best, goal)
        for _ in range(1, self.restarts):
            other = self._descend(model, x, goal, self._start(x, rng))
            margin = _margin(model, other, goal)
            better = margin < smallest
            best = torch.where(better[:, None, None, None], other, best)
            smallest = torch.where(better, margin, smallest)
        return best

    def _start(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Drawn for every row, so that a row's start does not depend on who is left."""
        if not self.random_start:
            return x
        return (x + self.norm.sample(x, self.eps, rng)).clamp_(0, 1)

    def _descend(self, model: Classifier, x: Tensor, goal: Goal, start: Tensor) -> Tensor:
        return descend(
            model,
            x,
            goal,
            step_size=self.step_size,
            steps=self.steps,
            eps=self.eps,
            norm=self.norm,
            stop_at_goal=self.stop_at_goal,
            start=start,
        )


def _margin(model: Classifier, x: Tensor, goal: Goal) -> Tensor:
    with torch.no_grad():
        return goal.margin(model.logits(x))
