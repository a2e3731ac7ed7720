"""Projected gradient descent: the fast-gradient loop from random starts, with restarts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import Ball, BoundedAttack, Count, Positive, pick
from mithridate.attacks.fast_gradient import descend
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.errors import InputError
from mithridate.goals import Goal
from mithridate.norms import LINF


@dataclass(frozen=True, kw_only=True)
class PGD(BoundedAttack):
    """Steepest descent of the goal's loss, projected on the eps ball (Madry et al. 2018, 2.1).

    Deviations: by default a row that reached its goal stops (same success, less work, smaller
    distance) and a restart attacks only the rows that are left. With `stop_at_goal=False` every
    row takes every step and ends at the last iterate, as published, which adversarial training
    wants; of several restarts it keeps the one of the smallest margin.

    Args:
        eps: radius of the ball, at least 0.
        norm: LINF (sign steps), L2 (normalised gradients) or L1 (SLIDE of Tramer and Boneh 2019:
            the steepest 1 % of the values).
        steps: passes per restart, at least 1; None for the usual, 40 for grey images, 20 for
            colour.
        step_size: length of a step, above 0; None for the usual: in LINF 0.01 for grey images and
            2/255 for colour, else 2.5 eps / steps.
        restarts: random starts to try, at least 1.
        random_start: begin at a uniform draw from the ball (clipped to [0, 1]), not at x.
        stop_at_goal: see above.

    Raises:
        InputError: a value out of range, or restarts without a random start.

    >>> PGD(eps=8 / 255).pace((3, 32, 32)) == (20, 2 / 255)
    True
    """

    about: ClassVar[About] = About(
        paper="Madry et al. 2018, section 2.1",
        kind="bounded",
        norms=("linf", "l2", "l1"),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    version: ClassVar[int] = 2
    copies: ClassVar[int] = 20
    norm: Ball = LINF
    steps: Count | None = None
    step_size: Positive | None = None
    restarts: Count = 1
    random_start: bool = True
    stop_at_goal: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restarts > 1 and not self.random_start:
            raise InputError(
                f"{self.restarts} restarts from the same point give the same images: "
                "set random_start, or restarts=1"
            )

    @classmethod
    def usual(cls, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        step_size, steps = (0.01, 40) if image_shape[0] == 1 else (2 / 255, 20)
        return super().usual(image_shape) | {"step_size": step_size, "steps": steps}

    def pace(self, image_shape: tuple[int, int, int]) -> tuple[int, float]:
        """Steps and their length for images (C, H, W)."""
        usual = self.usual(image_shape)
        steps = self.steps or int(usual["steps"])
        usual_size = usual["step_size"] if self.norm is LINF else 2.5 * self.eps / steps
        return steps, usual_size if self.step_size is None else self.step_size

    def cost(self, sizes: Sizes) -> Work:
        again = sizes.test * (self.restarts - 1)
        steps = self.pace((1, 1, 1))[0]
        return Work(forwards=again, gradients=sizes.test * steps * self.restarts)

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        steps, step_size = self.pace((x.shape[1], x.shape[2], x.shape[3]))
        run = partial(
            descend,
            model,
            step_size=step_size,
            steps=steps,
            eps=self.eps,
            norm=self.norm,
            stop_at_goal=self.stop_at_goal,
        )
        if not self.random_start:
            return run(x, goal)
        best, left = x.detach().clone(), torch.arange(len(x), device=x.device)
        smallest = x.new_full((len(x),), float("inf"))
        for _ in range(self.restarts):
            # Drawn for every row, so that a row's start does not depend on who is left.
            start = (x + self.norm.sample(x, self.eps, rng)).clamp_(0, 1)
            if not self.stop_at_goal:
                end = run(x, goal, start=start)
                if self.restarts == 1:
                    return end
                with torch.no_grad():
                    margin = goal.margin(model.logits(end))
                best = pick(margin < smallest, end, best)
                smallest = smallest.minimum(margin)
                continue
            with model.cost.on_rows(left):
                left = left[~goal[left].reached(model.labels(best[left]))]
            if len(left) == 0:
                break
            with model.cost.on_rows(left):
                best[left] = run(x[left], goal[left], start=start[left])
        return best
