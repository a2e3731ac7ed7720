"""The fast-gradient family: one loop, from a single step to many that end at the goal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import Ball, BoundedAttack, Count, Positive
from mithridate.attacks.losses import LogOdds
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal
from mithridate.norms import LINF, Norm


def descend(
    model: Classifier,
    x: Tensor,
    goal: Goal,
    *,
    step_size: float,
    steps: int,
    eps: float | None = None,
    norm: Norm = LINF,
    stop_at_goal: bool = False,
    start: Tensor | None = None,
) -> Tensor:
    """Step down the goal's loss along the steepest direction of `norm`, clipped to [0, 1].

    Makes `steps` forward+backward passes, fewer once every row is done, and no other pass.

    Args:
        x: images (N, C, H, W) in [0, 1], the centre of the ball.
        step_size: length of a step, in `norm`.
        eps: radius of the ball, in `norm`; None for no ball.
        stop_at_goal: a row that reaches its goal leaves the batch with the point at which it
            did. The logits of a gradient pass tell, so a row already there never moves.
        start: where to begin, x if None.

    Returns:
        Images (N, C, H, W); x and start are not changed.

    >>> from mithridate.goals import Targeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> descend(model, torch.tensor([[[[0.9, 0.1]]]]), Targeted([1]), step_size=0.25, steps=1)
    tensor([[[[0.6500, 0.3500]]]])
    """
    point, centre = (x if start is None else start).detach(), x.detach()
    out, rows = point.clone(), torch.arange(len(x), device=x.device)
    for _ in range(steps):
        with model.cost.on_rows(rows):
            gradient, logits = model.gradient(point, LogOdds(goal))
        if stop_at_goal:
            going = (~goal.reached(logits.argmax(1))).nonzero()[:, 0]
            if len(going) < len(rows):
                out[rows] = point
                rows, point, centre, goal = rows[going], point[going], centre[going], goal[going]
                gradient = gradient[going]
            if len(rows) == 0:
                return out
        point = point + norm.step(-gradient, point, step_size)
        point = point.clamp_(0, 1) if eps is None else norm.inside(point, centre, eps)
    return out.index_copy_(0, rows, point)


@dataclass(frozen=True, kw_only=True)
class FGSM(BoundedAttack):
    """Fast gradient sign method: one step of length eps (Goodfellow et al. 2015, section 4).

    Deviations: targeted where the goal is; any norm (LINF is the published one; in L1 the
    steepest values go to their walls, one after the other, as far as eps reaches); an image that
    has reached its goal already is left as it is.

    Raises:
        InputError: eps below 0.

    >>> FGSM(eps=0.3)
    FGSM(eps=0.3, norm=linf)
    """

    about: ClassVar[About] = About(
        paper="Goodfellow et al. 2015, section 4",
        kind="bounded",
        norms=("linf", "l2", "l1"),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    version: ClassVar[int] = 2
    norm: Ball = LINF

    def cost(self, sizes: Sizes) -> Work:
        return Work(gradients=sizes.test)

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        eps, norm = self.eps, self.norm
        return descend(
            model, x, goal, step_size=eps, steps=1, eps=eps, norm=norm, stop_at_goal=True
        )


@dataclass(frozen=True, kw_only=True)
class IterativeFGSM(BoundedAttack):
    """Small steps within eps that end at the goal (Kurakin et al. 2017, section 2.2).

    Deviation: rows stop where they cross, so their distance is smaller than the published
    form's, which takes every step; `stop_at_goal=False` gives that one.

    Args:
        eps: radius of the ball, at least 0.
        step_size: length of a step, above 0; None for the usual: in LINF 0.05 for grey images and
            2/255 for colour, else eps / 10.
        steps: how many at most; None takes as many as reach the ball's surface.

    Raises:
        InputError: a value out of range.

    >>> IterativeFGSM(eps=0.3).pace((1, 28, 28))
    (6, 0.05)
    """

    about: ClassVar[About] = About(
        paper="Kurakin et al. 2017, section 2.2",
        kind="bounded",
        norms=("linf", "l2", "l1"),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    version: ClassVar[int] = 2
    norm: Ball = LINF
    step_size: Positive | None = None
    steps: Count | None = None
    stop_at_goal: bool = True

    @classmethod
    def usual(cls, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        return super().usual(image_shape) | {"step_size": 0.05 if image_shape[0] == 1 else 2 / 255}

    def cost(self, sizes: Sizes) -> Work:
        return Work(gradients=sizes.test * self.pace((3, 1, 1))[0])

    def pace(self, image_shape: tuple[int, int, int]) -> tuple[int, float]:
        """Steps for images (C, H, W), `steps` or eps / step_size rounded up; and their length."""
        usual = self.usual(image_shape)["step_size"] if self.norm is LINF else self.eps / 10
        size = self.step_size or float(usual)
        return self.steps or (math.ceil(self.eps / size - 1e-9) if self.eps else 1), size

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        steps, step_size = self.pace((x.shape[1], x.shape[2], x.shape[3]))
        return descend(
            model,
            x,
            goal,
            step_size=step_size,
            steps=steps,
            eps=self.eps,
            norm=self.norm,
            stop_at_goal=self.stop_at_goal,
        )
