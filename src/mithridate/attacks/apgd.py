"""Auto-PGD: gradient steps whose length, and in L1 whose sparsity, each row sets by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import torch
from torch import Tensor

from mithridate.attacks.base import Ball, BoundedAttack, Count, pick
from mithridate.attacks.losses import DLR, LogOdds, Loss, Objective, TargetedDLR, rivalries
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal
from mithridate.norms import L0, L1, LINF, Norm, spread

MOMENTUM = 0.75
"""alpha of algorithm 1: the share of the new step; the rest repeats the last move."""
ENOUGH = 0.75
"""rho of condition 1: the share of steps that must lower the loss."""
WIDE = ((3.0, 0.3), (2.0, 0.3))
"""In L1, the wider balls first: radius as a multiple of eps, and share of the steps."""
EVERY = 0.04
"""In L1, the share of the steps between two checkpoints."""
SPARSER = 1.5
"""In L1, a step changes so many times fewer values than the best point does; steps shrink by it."""


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

    def direction(self, gradient: Tensor, point: Tensor, norm: Norm) -> Tensor:
        """A step of the present size down the gradient."""
        return norm.step(-gradient, point, self.step)

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
class SparseRule(_Rows):
    """Step size and sparsity of some rows in L1 (Croce and Hein 2021, section 3).

    Attributes:
        step: present step size, (N,), and so on for the others; first: at first.
        count: values that a step changes.
        best: smallest loss seen.
        changed: values that the best point changed at the last checkpoint.
    """

    step: Tensor
    first: Tensor
    count: Tensor
    best: Tensor
    changed: Tensor

    @classmethod
    def begin(cls, step: float, loss: Tensor, changed: Tensor) -> SparseRule:
        """The state after the losses (N,) of starting points that change so many values, (N,)."""
        size = torch.zeros_like(loss) + step
        return cls(size, size, changed / SPARSER, loss, changed)

    def see(self, loss: Tensor) -> Tensor:
        """Take the losses of the next points; which are the best so far, bool (N,)."""
        better = loss < self.best
        self.best = self.best.minimum(loss)
        return better

    def direction(self, gradient: Tensor, point: Tensor, norm: Norm) -> Tensor:
        """A step of the present size and sparsity down the gradient."""
        return spread(-gradient, point, self.step, self.count)

    def check(self, changed: Tensor) -> Tensor:
        """A checkpoint, where the best point changes so many values: which rows go back to it.

        Those that have grown sparser begin anew there; the others' steps shrink, to a tenth.
        """
        back = changed < 0.95 * self.changed
        smaller = (self.step / SPARSER).maximum(self.first / 10)
        self.step = torch.where(back, self.first, smaller)
        self.count, self.changed = changed / SPARSER, changed
        return back


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

    def move(self, step: Tensor, norm: Norm, eps: float, share: float) -> None:
        """A projected step to z, then a share of it and of the last move."""
        here = self.point
        z = norm.inside(here + step, self.centre, eps)
        if share < 1:
            z = here + share * (z - here) + (1 - share) * (here - self.previous)
            z = norm.inside(z, self.centre, eps)
        self.previous, self.point = here, z


@dataclass(frozen=True, kw_only=True)
class APGD(BoundedAttack):
    """PGD whose step sizes follow the progress of each image (Croce and Hein 2020, section 3).

    Algorithm 1 with its constants: first step 2 eps, momentum 0.75, checkpoints at 22 %, 41 %,
    57 %... of the steps, conditions 1 and 2 for each image by itself. In L1, APGD of Croce and
    Hein 2021 (section 3): steps of length eps along the steepest values alone, without momentum,
    projected on ball and box at once; every 4 % of the steps a row sets how many values a step
    changes and how long it is; 30 % of the steps in a ball of 3 eps and 30 % in one of 2 eps.

    Deviations: the conditions are asked at the checkpoint's own point, as in the authors' code
    (algorithm 1 takes one more step and throws it away), and strictly below 3 of 4 as in the
    text (their code: at most). Starts are uniform in the ball; theirs are scaled to touch its
    surface. In L1, a value at its wall leaves its part of a step to the next. By default a row
    that reached its goal stops; later restarts and target classes see the rows that are left.
    With `stop_at_goal=False` every row takes every step, and the point of the smallest margin
    is kept.

    Args:
        eps: radius of the ball, at least 0.
        norm: LINF, L2 or L1.
        steps: gradients per restart, at least 1.
        loss: "ce" (cross-entropy, by its log-odds, which never saturate), "dlr", or
            "dlr-targeted": for an `Untargeted` goal one run per rival class, else for the target.
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
        norms=("linf", "l2", "l1"),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    version: ClassVar[int] = 2
    copies: ClassVar[int] = 20
    norm: Ball = LINF
    steps: Count = 100
    loss: Loss = "ce"
    restarts: Count = 1
    targets: Count = 9
    eot: Count = 1
    stop_at_goal: bool = True

    def cost(self, sizes: Sizes) -> Work:
        rivals = min(self.targets, sizes.classes - 1) if self.loss == "dlr-targeted" else 1
        runs = sizes.test * self.restarts * rivals
        forwards = runs * (1 + len(WIDE)) if self.norm is L1 else runs
        return Work(forwards=forwards, gradients=runs * self.steps * self.eot)

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
                yield LogOdds(goal)
            elif self.loss == "dlr":
                yield DLR(goal)
            else:
                yield from map(TargetedDLR, rivalries(goal, logits, self.targets))

    def _run(
        self, model: Classifier, x: Tensor, goal: Goal, objective: Objective, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        """All of the steps: in L1, those in wider balls first.

        Returns:
            Images (N, C, H, W): the first that reached the goal, or that of the smallest margin;
            and this margin, (N,).
        """
        eps, left = self.eps, self.steps
        for factor, share in WIDE if self.norm is L1 else ():
            steps = int(share * self.steps)
            left -= steps
            if steps:
                start = self.norm.inside(start, x, factor * eps)
                start, _ = self._walk(model, x, goal, objective, start, factor * eps, steps)
                start = self.norm.inside(start, x, eps)
        return self._walk(model, x, goal, objective, start, eps, left, last=True)

    def _walk(
        self,
        model: Classifier,
        x: Tensor,
        goal: Goal,
        objective: Objective,
        start: Tensor,
        eps: float,
        steps: int,
        *,
        last: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Algorithm 1 for all rows: `steps` gradients each, and a last forward pass.

        Returns:
            As `_run` if these are the last steps, else the images of the smallest loss.
        """
        out = start.clone() if last else start
        rows, sparse = torch.arange(len(x), device=x.device), self.norm is L1
        margins = x.new_full((len(x),), float("inf"))
        path, mark = _Path(x, start, start, start, start, start, margins), 0
        rule: StepRule | SparseRule | None = None
        marks = range(0, steps, max(1, int(EVERY * steps))) if sparse else checkpoints(steps)
        for k in range(steps + 1):
            with model.cost.on_rows(rows):
                gradient, logits = self._look(model, path.point, objective, look=k == steps)
            loss = objective.loss(logits)
            if rule is None and sparse:
                rule = SparseRule.begin(eps, loss, L0.distance(path.point, path.centre))
            elif rule is None:
                rule = StepRule.begin(2 * eps, loss)
            path.see(gradient, goal.margin(logits), rule.see(loss) | (k == 0))
            if last and self.stop_at_goal:
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
            if len(rows) == 0 or k == steps:
                break
            if k and k in marks:
                if isinstance(rule, SparseRule):
                    back = rule.check(L0.distance(path.best, path.centre))
                else:
                    back, mark = rule.check(k - mark), k
                path.point = pick(back, path.best, path.point)
                gradient = pick(back, path.best_gradient, gradient)
            step = rule.direction(gradient, path.point, self.norm)
            path.move(step, self.norm, eps, MOMENTUM if k and not sparse else 1.0)
        if not last:
            return path.best, path.margin
        out[rows], margins[rows] = path.closest, path.margin
        return out, margins

    def _look(
        self, model: Classifier, x: Tensor, objective: Objective, *, look: bool
    ) -> tuple[Tensor, Tensor]:
        """Gradient and logits at x, the mean of `eot` passes; to `look` only, logits alone."""
        if look:
            with torch.no_grad():
                return torch.zeros_like(x), model.logits(x)
        gradient, logits = model.gradient(x, objective)
        for _ in range(1, self.eot):
            more, other = model.gradient(x, objective)
            gradient, logits = gradient + more, logits + other
        return gradient / self.eot, logits / self.eot
