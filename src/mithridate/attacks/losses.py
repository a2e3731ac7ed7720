"""Objectives whose gradient does not vanish, however large the logits are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self, final

import torch
from torch import Tensor

from mithridate.goals import Goal, Rows, SourceToTarget, Targeted, Untargeted

Loss = Literal["ce", "dlr", "dlr-targeted"]


@dataclass(frozen=True)
class OfGoal:
    """What is made of a goal, row by row."""

    goal: Goal

    def __getitem__(self, rows: Rows) -> Self:
        return replace(self, goal=self.goal[rows])


@final
class LogOdds(OfGoal):
    """The log-odds of cross-entropy's own probability p: ln p / (1 - p), to be minimised.

    p is that of the true label where the goal is to leave it, else that of not being the target.
    Cross-entropy is a monotone function of it, so its gradient has the same direction and the
    same points are best; but where softmax rounds p to 1, that of cross-entropy is 0 and this one
    is not. For steps whose length does not depend on the gradient's.

    >>> goal, logits = Untargeted([0]), torch.tensor([[900.0, 0.0]], requires_grad=True)
    >>> torch.autograd.grad(goal.loss(logits), logits)[0].abs(), LogOdds(goal).loss(logits).item()
    (tensor([[0., 0.]]), 900.0)
    """

    def loss(self, logits: Tensor) -> Tensor:
        """(N, K) -> (N,)."""
        goal = self.goal
        if not isinstance(goal, Untargeted | Targeted):  # of a source, softmax cancels
            return goal.loss(logits)
        away, (label,) = isinstance(goal, Untargeted), goal.classes()
        held = torch.zeros_like(logits, dtype=torch.bool).scatter(1, label[:, None], True)
        if away and goal.rejected is not None:
            held[:, goal.rejected] = True
        inside, others = (logits.masked_fill(m, float("-inf")).logsumexp(1) for m in (~held, held))
        return inside - others if away else others - inside


@final
class Margin(OfGoal):
    """The difference of logits: what is missing to the goal, and beyond it how far."""

    def loss(self, logits: Tensor) -> Tensor:
        """(N, K) -> (N,), below 0 once the goal is reached."""
        return self.goal.margin(logits)


@final
class DLR(OfGoal):
    """Difference of logits ratio (Croce and Hein 2020, section 4), as something to minimise.

    The goal's margin over z1 - z3, where z1 >= z2 >= z3 are the largest logits: shifting or
    scaling the logits changes nothing, so no gradient vanishes where softmax saturates.

    Deviations: any goal has a margin, so it serves targets too (the strongest other class
    against the target). With two classes there is no third logit, and the margin stands alone.
    """

    def loss(self, logits: Tensor) -> Tensor:
        """(N, K) -> (N,), below 0 once the goal is reached."""
        return self.goal.margin(logits) / _spread(logits, 3)


@final
class TargetedDLR(OfGoal):
    """The ratio for one rival class (Croce and Hein 2020: "targeted DLR"), to be minimised.

    (z[source] - z[target]) / (z1 - (z3 + z4) / 2) for a `SourceToTarget` goal. Deviations: for
    another goal its margin is the numerator; with three classes z3 stands for both, with two
    the numerator stands alone.
    """

    def loss(self, logits: Tensor) -> Tensor:
        """(N, K) -> (N,)."""
        pair = isinstance(self.goal, SourceToTarget)
        above = self.goal.loss(logits) if pair else self.goal.margin(logits)
        return above / _spread(logits, 4)


Objective = LogOdds | DLR | TargetedDLR


def rivalries(goal: Goal, logits: Tensor, count: int) -> Iterator[Goal]:
    """An untargeted goal as a series of pairs: the true class against each of its rivals.

    Rivals are the `count` other classes of the largest logits, at most all, strongest first; a
    class by which the model refuses to answer is none. A goal that names its target is its own
    only rivalry.
    """
    if not isinstance(goal, Untargeted):
        yield goal
        return
    others, left = logits.scatter(1, goal.labels[:, None], float("-inf")), logits.shape[1] - 1
    if goal.rejected is not None:
        others[:, goal.rejected], left = float("-inf"), left - 1
    for target in others.topk(min(count, left), 1).indices.T:
        yield SourceToTarget(goal.labels, target).avoiding(goal.rejected)


def _spread(logits: Tensor, last: int) -> Tensor:
    """The largest logit less the mean of the third to the `last`, (N,)."""
    if logits.shape[1] < 3:
        return torch.ones_like(logits[:, 0])
    top = logits.topk(min(last, logits.shape[1]), 1).values
    return (top[:, 0] - top[:, 2:].mean(1)).clamp(min=1e-12)
