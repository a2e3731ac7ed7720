"""Auto-PGD: gradient steps with momentum, whose length each row halves by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import torch
from torch import Tensor

from mithridate.attacks.base import BoundedAttack, Count, Near, per_row, pick
from mithridate.attacks.losses import DLR, Loss, Objective, TargetedDLR, rivalries
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal
from mithridate.norms import LINF, Norm

MOMENTUM = 0.75
"""alpha of algorithm 1: the share of the new step; the rest repeats the last move."""
ENOUGH = 0.75
"""rho of condition 1: the share of steps that must lower the loss."""


def checkpoints(steps: int) -> list[int]:
    """Iterations at which steps may be halved, w_1 < w_2 < ... (the paper's section 3)."""
    before, share, marks = 0.0, 0.22, []
    while share < 1 + 1e-9:
        marks.append(math.ceil(share * steps - 1e-9))
        before, share = share, share + max(share - before - 0.03, 0.06)
    return sorted(set(marks))


@dataclass
class _Rows:
    """Tensors with one entry per row, taken together."""

    def __getitem__(self, rows: Tensor) -> Self:
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass
class StepRule(_Rows):
    """Step sizes of some rows, as a function of their losses alone (the paper's section 3).

    Attributes:
        step: present step size, (N,), and so on for the others.
        best: smallest loss seen; best_before: the same at the last checkpoint.
        last: loss of the present point.
        falls: steps since the last checkpoint that lowered the loss.
        halved: the step was halved at the last checkpoint.
    """

    step: Tensor
    best: Tensor
    best_before: Tensor
    last: Tensor
    falls: Tensor
    halved: Tensor

    @classmethod
    def begin(cls, step: float, loss: Tensor) -> StepRule:
        """The state after the losses (N,) of the starting points."""
        zero = torch.zeros_like(loss)
        return cls(zero + step, loss, loss, loss, zero, zero.bool())

    def see(self, loss: Tensor) -> Tensor:
        """Take the losses of the next points; which are the best so far, bool (N,)."""
        better = loss < self.best
        self.falls = self.falls + (loss < self.last)
        self.best, self.last = self.best.minimum(loss), loss
        return better

    def check(self, length: int) -> Tensor:
        """A checkpoint, `length` steps after the last: which rows halve their step, bool (N,).

        Such a row goes back to its best point. Condition 1: fewer than 3 of 4 steps lowered
        the loss. Condition 2: neither step size nor best loss changed since the last one.
        """
        stuck = ~self.halved & (self.best == self.best_before)
        self.halved = (self.falls < ENOUGH * length) | stuck
        self.step = torch.where(self.halved, self.step / 2, self.step)
        self.last = torch.where(self.halved, self.best, self.last)
        self.best_before, self.falls = self.best, torch.zeros_like(self.falls)
        return self.halved


@dataclass
class _Path(_Rows):
    """Images of some rows: where they are, were, did best, and were closest to the goal."""

    centre: Tensor
    point: Tensor
    previous: Tensor
    best: Tensor
    best_gradient: Tensor
    closest: Tensor
    margin: Tensor

    def see(self, gradient: Tensor, margin: Tensor, better: Tensor) -> None:
        """Keep the present point where it is the best or the closest so far."""
        self.best = pick(better, self.point, self.best)
        self.best_gradient = pick(better, gradient, self.best_gradient)
        self.closest = pick(margin < self.margin, self.point, self.closest)
        self.margin = margin.minimum(self.margin)

    def move(self, gradient: Tensor, step: Tensor, norm: Norm, eps: float, share: float) -> None:
        """A projected step to z, downhill, then a share of it and of the last move."""
        here = self.point
        z = self._inside(here - per_row(step) * norm.steepest(gradient), norm, eps)
        point = here + share * (z - here) + (1 - share) * (here - self.previous)
        self.previous, self.point = here, self._inside(point, norm, eps)

    def _inside(self, point: Tensor, norm: Norm, eps: float) -> Tensor:
        return (self.centre + norm.project(point - self.centre, eps)).clamp_(0, 1)


@dataclass(frozen=True, kw_only=True)
class APGD(BoundedAttack):
    """PGD whose step sizes follow the progress of each image (Croce and Hein 2020, section 3).

    Algorithm 1 with its constants: first step 2 eps, momentum 0.75, checkpoints at 22 %, 41 %,
    57 %... of the steps, conditions 1 and 2 for each image by itself.

    Deviations: the conditions are asked at the checkpoint's own point, as in the authors' code
    (algorithm 1 takes one more step and throws it away), and strictly below 3 of 4 as in the
    text (their code: at most). Starts are uniform in the ball; theirs are scaled to touch its
    surface. By default a row that reached its goal stops; later restarts and target classes
    see the rows that are left. With `stop_at_goal=False` every row takes every step, and the
    point of the smallest margin is kept.

    Args:
        eps: radius of the ball, at least 0.
        norm: LINF or L2.
        steps: gradients per restart, at least 1.
        loss: "ce" (the goal's own: cross-entropy), "dlr", or "dlr-targeted": for an
            `Untargeted` goal one run per rival class, else for the goal's target.
        restarts: random starts to try, of each rival class too.
        targets: rival classes to try, those of the largest logits on x ("dlr-targeted").
        eot: passes that each gradient is the mean of, for models that draw random numbers.
        stop_at_goal: see above.

    Raises:
        InputError: a value out of range, another norm or loss.

    >>> APGD(eps=8 / 255).steps
    100
    """

    about: ClassVar[About] = About(
        paper="Croce and Hein 2020, section 3",
        kind="bounded",
        norms=("linf", "l2"),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    copies: ClassVar[int] = 20
    norm: Near = LINF
    steps: Count = 100
    loss: Loss = "ce"
    restarts: Count = 1
    targets: Count = 9
    eot: Count = 1
    stop_at_goal: bool = True

    def cost(self, sizes: Sizes) -> Work:
        rivals = min(self.targets, sizes.classes - 1) if self.loss == "dlr-targeted" else 1
        runs = sizes.test * self.restarts * rivals
        return Work(forwards=runs, gradients=runs * self.steps * self.eot)

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        x = x.detach()
        with model.frozen(), torch.no_grad():
            logits = model.logits(x)
            best, smallest = x.clone(), goal.margin(logits)
            left = (~goal.reached(logits.argmax(1))).nonzero()[:, 0]
            if not self.stop_at_goal:
                left, smallest = torch.arange(len(x), device=x.device), smallest + float("inf")
            for objective in self._objectives(goal, logits):
                start = (x + self.norm.sample(x, self.eps, rng)).clamp_(0, 1)
                if len(left) == 0:
                    break
                with model.cost.on_rows(left):
                    closest, margin = self._run(
                        model, x[left], goal[left], objective[left], start[left]
                    )
                nearer = margin < smallest[left]
                best[left] = pick(nearer, closest, best[left])
                smallest[left] = margin.minimum(smallest[left])
                if self.stop_at_goal:
                    left = left[margin >= 0]
        return best

    def _objectives(self, goal: Goal, logits: Tensor) -> Iterator[Objective]:
        """What each run minimises, in turn."""
        for _ in range(self.restarts):
            if self.loss == "ce":
                yield goal
            elif self.loss == "dlr":
                yield DLR(goal)
            else:
                yield from map(TargetedDLR, rivalries(goal, logits, self.targets))

    def _run(
        self, model: Classifier, x: Tensor, goal: Goal, objective: Objective, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Algorithm 1 for all rows: `steps` gradients each, and a last forward pass.

        Returns:
            Images (N, C, H, W): the first that reached the goal, or that of the smallest margin;
            and this margin, (N,).
        """
        out, rows = start.clone(), torch.arange(len(x), device=x.device)
        margins = x.new_full((len(x),), float("inf"))
        path, rule, mark = _Path(x, start, start, start, start, start, margins), None, 0
        for k in range(self.steps + 1):
            with model.cost.on_rows(rows):
                gradient, logits = self._look(model, path.point, objective, k)
            loss = objective.loss(logits)
            rule = StepRule.begin(2 * self.eps, loss) if rule is None else rule
            path.see(gradient, goal.margin(logits), rule.see(loss) | (k == 0))
            if self.stop_at_goal:
                going = (~goal.reached(logits.argmax(1))).nonzero()[:, 0]
                if len(going) < len(rows):
                    out[rows], margins[rows] = path.closest, path.margin
                    path, rule, rows, gradient = (
                        path[going],
                        rule[going],
                        rows[going],
                        gradient[going],
                    )
                    goal, objective = goal[going], objective[going]
            if len(rows) == 0 or k == self.steps:
                break
            if k in checkpoints(self.steps):
                back, mark = rule.check(k - mark), k
                path.point = pick(back, path.best, path.point)
                gradient = pick(back, path.best_gradient, gradient)
            path.move(gradient, rule.step, self.norm, self.eps, MOMENTUM if k else 1.0)
        out[rows], margins[rows] = path.closest, path.margin
        return out, margins

    def _look(
        self, model: Classifier, x: Tensor, objective: Objective, k: int
    ) -> tuple[Tensor, Tensor]:
        """Gradient and logits at x, the mean of `eot` passes; after the last step logits alone."""
        if k == self.steps:
            with torch.no_grad():
                return torch.zeros_like(x), model.logits(x)
        gradient, logits = model.gradient(x, objective)
        for _ in range(1, self.eot):
            more, other = model.gradient(x, objective)
            gradient, logits = gradient + more, logits + other
        return gradient / self.eot, logits / self.eot
