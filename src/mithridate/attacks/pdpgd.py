"""PDPGD: descent on the change, ascent on the margin's weight, and a proximal step for the norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate.attacks.base import AnyNorm, Closest, Count, Positive, RowSearch, crossed, per_row
from mithridate.attacks.losses import OfGoal
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal
from mithridate.norms import L0, L1, L2, Norm

DAMPING = 1.0
"""What a point's own side adds to the log-odds or takes away: without it they swing."""


class _Softplus(OfGoal):
    """log(1 + exp(margin)): little is left of it where the goal is reached by far."""

    def loss(self, logits: Tensor) -> Tensor:
        return F.softplus(self.goal.margin(logits))


def proximal(v: Tensor, t: Tensor, h: Tensor, norm: Norm) -> Tensor:
    """The change d that minimises `t |d| + sum h (d - v)^2 / 2`, exactly; in L2, of `t |d|^2`.

    L1: a soft threshold, L0: a hard one, each value by its own h. LINF: values are cut at the
    height c at which `sum h (|v| - c) = t` of those above it, found by sorting them.

    Args:
        v: changes (N, ...).
        t: weights of the norm, (N,).
        h: curvatures, as v, above 0.
        norm: L0, L1, L2 or LINF.

    >>> from mithridate.norms import LINF
    >>> v, h = torch.tensor([[0.5, -0.2, 0.4]]), torch.ones(1, 3)
    >>> proximal(v, torch.tensor([0.3]), h, LINF)
    tensor([[ 0.3000, -0.2000,  0.3000]])
    """
    shape, v, h, t = v.shape, v.flatten(1), h.flatten(1), t[:, None]
    if norm is L2:
        return (v * h / (h + 2 * t)).view(shape)
    if norm is L1:
        return (v.sign() * (v.abs() - t / h).clamp(min=0)).view(shape)
    if norm is L0:
        return torch.where(h * v**2 / 2 > t, v, 0).view(shape)
    high, order = v.abs().sort(1, descending=True)
    weight = h.gather(1, order)
    cut = ((weight * high).cumsum(1) - t) / weight.cumsum(1)  # if so many lie above it
    last = (high > cut).sum(1, keepdim=True).clamp(min=1) - 1
    height = cut.gather(1, last).clamp(min=0)
    return v.clamp(-height, height).view(shape)


@dataclass(frozen=True, kw_only=True)
class PDPGD(RowSearch):
    """Primal-dual proximal gradient descent (Matyasko and Chau 2021), in L2 without prox: PDGD.

    The change goes down `(1 - w) * norm + w * margin` by Adam, while the margin's weight w rises
    where the point is not adversarial and falls where it is. In LINF, L1 and L0 the norm is
    dealt with by a proximal step, in the metric of Adam's second moments.

    The margin is the softplus of the missing logits. Deviations: w's log-odds move by the sign of
    the margin alone, which also damps them (the paper smooths w); the proximal step is exact, by
    sorting (the paper's is iterated). A row that has reached its goal at the start is left as it
    is.

    Args:
        norm: L2, LINF, L1 or L0.
        steps: passes, at least 1.
        step_size: of Adam in the first step, above 0; shortens exponentially, to a thousandth.
        dual_step: change of the log-odds of w in the first step, above 0; falls to a tenth.
        ratio: weight of the norm over the margin's at first, above 0: small, and the search first
            goes far beyond the boundary, which takes longer and ends nearer.

    Raises:
        InputError: a value out of range, or another norm.

    >>> from mithridate.goals import Untargeted
    >>> from mithridate.norms import LINF
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.6, 0.5]]]]), torch.Generator()
    >>> near = PDPGD(norm=LINF).perturb(model, x, Untargeted([0]), rng=rng)
    >>> round(LINF.distance(near, x).item(), 3)  # the nearest point
    0.05
    """

    about: ClassVar[About] = About(
        paper="Matyasko and Chau 2021, algorithms 1 and 2",
        kind="minimal",
        norms=("l2", "linf", "l1", "l0"),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    copies: ClassVar[int] = 28
    norm: AnyNorm = L2
    steps: Count = 1000
    step_size: Positive = 0.1
    dual_step: Positive = 0.1
    ratio: Positive = 0.01

    def cost(self, sizes: Sizes) -> Work:
        return Work(forwards=sizes.test, gradients=sizes.test * self.steps)

    def search(self, model: Classifier, x: Tensor, goal: Goal) -> Tensor:
        norm, point, closest = self.norm, x, Closest(x, self.norm)
        odds = torch.full_like(closest.size, -math.log(self.ratio))
        mean, square = torch.zeros_like(x), torch.zeros_like(x)
        for k in range(self.steps):
            pull, logits = model.gradient(point, _Softplus(goal))
            won = crossed(goal, logits)
            closest.see(point, won)

            side = torch.where(won, -1.0, 1.0)
            odds = odds + side * self.dual_step * 0.1 ** (k / self.steps)
            weight = (odds + DAMPING * side).sigmoid()
            delta, gradient = point - x, per_row(weight) * pull
            if norm is L2:
                gradient = gradient + per_row(1 - weight) * L2.steepest(delta)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            scale = (square / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8
            step = self.step_size * 0.001 ** (k / self.steps)
            delta = delta - step * mean / (1 - 0.9 ** (k + 1)) / scale
            if norm is not L2:
                delta = proximal(delta, 1 - weight, scale / step, norm)
            point = (x + delta).clamp_(0, 1)
        return closest.last(model, point, goal)
