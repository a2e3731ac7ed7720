"""The first attack: L-BFGS on the length of the change and the loss, all images together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import Count, Positive, RowSearch, crossed
from mithridate.attacks.losses import OfGoal
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal

SUFFICIENT = 1e-4
"""Share of the decrease that the slope promises which a step must keep (Armijo)."""
STALLED = 1e-5
"""Relative decrease below which a row is taken as minimised."""


class Pull(OfGoal):
    """ln(1 + exp(margin)): the cross-entropy between the two classes that contend."""

    def loss(self, logits: Tensor) -> Tensor:
        return torch.nn.functional.softplus(self.goal.margin(logits))


def newton_step(gradient: Tensor, moves: Tensor, turns: Tensor, scale: Tensor) -> Tensor:
    """Minus the inverse Hessian times the gradient, row by row (L-BFGS two-loop recursion).

    Args:
        gradient: (N, D).
        moves: the last changes of the point, (M, N, D), oldest first.
        turns: the changes of the gradient over them. A pair whose inner product is not
            positive tells no curvature and is passed over, in its row only.
        scale: first guess of the inverse Hessian's diagonal, (N,).

    >>> g, moves = torch.tensor([[4.0, 1.0]]), torch.eye(2)[:, None]  # of 2 a^2 + b^2 / 2
    >>> turns = torch.tensor([[[4.0, 0.0]], [[0.0, 1.0]]])
    >>> newton_step(g, moves, turns, torch.ones(1))
    tensor([[-1., -1.]])
    """
    bends = (moves * turns).sum(2, keepdim=True)
    rates = torch.where(bends > 1e-12, 1 / bends.clamp(min=1e-12), 0)
    q, shares = gradient, []
    for s, y, rate in zip(moves.flip(0), turns.flip(0), rates.flip(0), strict=True):
        shares.append(rate * (s * q).sum(1, keepdim=True))
        q = q - shares[-1] * y
    q = scale[:, None] * q
    for s, y, rate, share in zip(moves, turns, rates, reversed(shares), strict=True):
        q = q + (share - rate * (y * q).sum(1, keepdim=True)) * s
    return -q


@dataclass(frozen=True, kw_only=True)
class LBFGS(RowSearch):
    """Minimise `c * |r|^2 + loss(x + r)` in the box, for the largest c (Szegedy et al. 2014, 4.1).

    Deviations: `|r|^2` for `|r|` (smooth, as L-BFGS wants; the same minima for another c). The
    loss is the cross-entropy between the wanted and the strongest other class: the full one
    has no minimum in the untargeted direction. c is searched by tens, then halfway in its
    logarithm. One pass serves every row: where it lowered the row's objective enough it is a
    step, else the row tries a quarter of the way, so that no row waits for another's line
    search. Values at an edge of the box that pull outward are left out of the step.

    Args:
        steps: passes per value of c at most, at least 1.
        search_steps: values of c to try, at least 1.
        c: first weight of `|r|^2`, above 0.
        memory: pairs of moves and gradients kept, at least 1.

    Raises:
        InputError: a value out of range.

    >>> from mithridate.goals import Untargeted
    >>> from mithridate.norms import L2
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.6, 0.5]]]]), torch.Generator()
    >>> near = LBFGS().perturb(model, x, Untargeted([0]), rng=rng)
    >>> round(L2.distance(near, x).item(), 2)  # the nearest point is at 0.1 / sqrt(2)
    0.07
    """

    about: ClassVar[About] = About(
        paper="Szegedy et al. 2014, section 4.1",
        kind="minimal",
        norms=("l2",),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    steps: Count = 40
    search_steps: Count = 8
    c: Positive = 1.0
    memory: Count = 5

    def cost(self, sizes: Sizes) -> Work:
        return Work(gradients=sizes.test * self.steps * self.search_steps)

    def held(self, n: int, values: int) -> int:
        return (20 + 5 * self.memory) * n * values

    def search(self, model: Classifier, x: Tensor, goal: Goal) -> Tensor:
        best, least = x.clone(), x.new_full((len(x),), float("inf"))
        low, high, c = torch.zeros_like(least), least.clone(), torch.full_like(least, self.c)
        for _ in range(self.search_steps):
            near, distance = self._minimise(model, x, goal, c)
            nearer = distance < least
            best[nearer], least = near[nearer], torch.minimum(distance, least)
            won = distance.isfinite()
            low, high = torch.where(won, c, low), torch.where(won, high, c)
            between = torch.where(low == 0, c / 10, (low * high).sqrt())
            c = torch.where(high.isinf(), 10 * c, between)
        return best

    def _minimise(
        self, model: Classifier, x: Tensor, goal: Goal, c: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Projected L-BFGS; the nearest adversarial images met, and their distances or inf."""
        best, least = x.clone(), x.new_full((len(x),), float("inf"))
        rows, shape, size = torch.arange(len(x), device=x.device), x.shape[1:], x[:1].numel()
        start, trial = x.flatten(1), x.flatten(1)
        point, slope, way = trial, torch.zeros_like(trial), torch.zeros_like(trial)
        value, reach = torch.full_like(c, float("inf")), torch.ones_like(c)
        moves = turns = x.new_zeros((self.memory, len(x), size))
        for _ in range(self.steps):
            pulled, logits = model.gradient(trial.view(-1, *shape), Pull(goal))
            change = trial - start
            distance = change.norm(dim=1)
            better = crossed(goal, logits) & (distance < least[rows])
            best[rows[better]] = trial[better].view(-1, *shape)
            least[rows[better]] = distance[better]

            objective = c * distance**2 + Pull(goal).loss(logits)
            gradient = 2 * c[:, None] * change + pulled.flatten(1)
            enough = objective <= value + SUFFICIENT * (slope * (trial - point)).sum(1)
            going = torch.where(enough, value - objective > STALLED * objective, reach > 1e-3)
            taken = enough[:, None]
            moves = _push(moves, trial - point, taken)
            turns = _push(turns, gradient - slope, taken)
            point, slope = torch.where(taken, trial, point), torch.where(taken, gradient, slope)
            value = torch.where(enough, objective, value)
            reach = torch.where(enough, 1.0, reach / 4)
            way = torch.where(taken, _way(point, slope, moves, turns, c), way)

            left = going.nonzero()[:, 0]
            if len(left) < len(rows):
                kept = (rows, start, point, slope, way, value, reach, c)
                rows, start, point, slope, way, value, reach, c = (v[left] for v in kept)
                moves, turns, goal = moves[:, left], turns[:, left], goal[left]
            if len(rows) == 0:
                break
            trial = (point + reach[:, None] * way).clamp(0, 1)
        return best, least


def _push(history: Tensor, latest: Tensor, taken: Tensor) -> Tensor:
    """The history (M, N, D) with the latest entry in place of the oldest, where taken."""
    return torch.where(taken, torch.cat([history[1:], latest[None]]), history)


def _way(point: Tensor, slope: Tensor, moves: Tensor, turns: Tensor, c: Tensor) -> Tensor:
    """Newton's step in the box; `|r|^2` alone has the inverse Hessian 1 / 2c."""
    free = ~(((point <= 0) & (slope > 0)) | ((point >= 1) & (slope < 0)))
    bend, size = (moves[-1] * turns[-1]).sum(1), turns[-1].square().sum(1)
    scale = torch.where(bend > 1e-12, bend / size.clamp(min=1e-12), 1 / (2 * c))
    way = torch.where(free, newton_step(slope * free, moves, turns, scale), 0)
    uphill = (way * slope).sum(1, keepdim=True) >= 0
    return torch.where(uphill, -slope * free / (2 * c[:, None]), way)
