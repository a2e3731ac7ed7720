"""FAB: project on the linearised boundary inside the box, biased towards the image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import (
    ROUNDING,
    Ball,
    Count,
    MinimalAttack,
    Nonnegative,
    crossed,
    per_row,
    pick,
)
from mithridate.attacks.deepfool import nearest_boundary
from mithridate.attacks.losses import rivalries
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal, SourceToTarget, Untargeted
from mithridate.norms import L1, L2, LINF, Norm

BIAS = 0.1
"""alpha_max: the largest share of the point that the image's own projection makes up."""
EXTRAPOLATION = 1.05
"""eta: by how much a projection oversteps the boundary."""
BACKWARD = 0.9
"""beta: what is left of a step that crossed, before the next."""
FINAL = 3
"""Steps of the final search."""
RADIUS = {L1: 5.0, L2: 1.0, LINF: 0.3}
"""Largest distance, halved, at which a restart begins (the authors' settings for MNIST)."""


def project(x: Tensor, w: Tensor, gap: Tensor, norm: Norm) -> Tensor:
    """The smallest step d with x + d in [0, 1] and w d = gap: on a hyperplane, inside the box.

    Every coordinate moves in the direction that raises w d, up to its wall. LINF: all by the
    same t; L2: by `t |w|`; so the gain is piecewise linear in t, with a bend where a coordinate
    meets its wall, and sorting the bends finds t. L1: the largest `|w|` first, each up to its wall.
    Where the gap cannot be closed inside the box, the step ends in the corner.

    Args:
        x: points (N, D) in [0, 1]; w: normals (N, D).
        gap: what w d should be, (N,).
        norm: L1, L2 or LINF.

    Returns:
        Steps (N, D).

    >>> x, w = torch.tensor([[0.5, 0.9]]), torch.tensor([[1.0, 2.0]])
    >>> project(x, w, torch.tensor([0.4]), LINF)
    tensor([[0.2000, 0.1000]])
    """
    w = w * gap.sign()[:, None]
    gap, slope = gap.abs()[:, None], w.abs()
    room = torch.where(w > 0, 1 - x, x) * (slope > 0)
    if norm is L1:
        slope, order = slope.sort(1, descending=True)
        room = room.gather(1, order)
        before = (slope * room).cumsum(1) - slope * room
        moves = ((gap - before) / slope.clamp(min=1e-30)).clamp(min=0).minimum(room)
        return w.sign() * torch.zeros_like(w).scatter(1, order, moves)
    rate = slope if norm is L2 else torch.ones_like(slope)
    bends, order = torch.where(slope > 0, room / rate, 0).sort(1)
    gains = (slope * rate).gather(1, order)
    closed = (gains * bends).cumsum(1) - gains * bends
    going = gains.flip(1).cumsum(1).flip(1)
    passed = (closed + bends * going < gap).sum(1, keepdim=True)
    at = passed.clamp(max=w.shape[1] - 1)
    t = (gap - closed.gather(1, at)) / going.gather(1, at).clamp(min=1e-30)
    moves = torch.where(passed < w.shape[1], (t * rate).minimum(room), room)
    return w.sign() * moves


def _towards(
    x: Tensor, point: Tensor, normal: Tensor, rise: Tensor, norm: Norm, most: Tensor
) -> Tensor:
    """The biased step: past the hyperplane, from the point and with some share from x."""
    flat, centre, w = point.flatten(1), x.flatten(1), normal.flatten(1)
    own = project(flat, w, -rise, norm)
    other = project(centre, w, -rise - (w * (centre - flat)).sum(1), norm)
    length, rest = norm.size(own)[:, None], norm.size(other)[:, None]
    bias = (length / (length + rest).clamp(min=1e-12)).minimum(most[:, None])
    ours, theirs = flat + EXTRAPOLATION * own, centre + EXTRAPOLATION * other
    return ((1 - bias) * ours + bias * theirs).clamp(0, 1).view_as(x)


def _contest(model: Classifier, x: Tensor, goal: Goal, pair: Goal | None) -> tuple[Tensor, Tensor]:
    """The class to be dethroned (N, 1), and those that may take its place (N, R)."""
    if isinstance(pair, SourceToTarget):
        return pair.source[:, None], pair.target[:, None]
    wins = goal.reached(torch.arange(model.classes, device=x.device)[:, None]).T
    if isinstance(goal, Untargeted):
        return goal.labels[:, None], wins.nonzero()[:, 1].view(len(x), -1)
    with torch.no_grad():
        logits = model.logits(x).masked_fill(wins, float("-inf"))
    return logits.argmax(1, keepdim=True), wins.nonzero()[:, 1:]


def _refine(model: Classifier, x: Tensor, end: Tensor, goal: Goal) -> Tensor:
    """The final search: regula falsi on the margin between x and the end.

    It aims a little beyond the zero, as a boundary is a place to cross.
    """
    with torch.no_grad():
        near, above, below = x, *(goal.margin(model.logits(point)) for point in (x, end))
        for _ in range(FINAL):
            share = (below / (below - above).clamp(max=-1e-12)).clamp(0, 1) * 0.9
            tried = end + per_row(share) * (near - end)
            logits = model.logits(tried)
            won, margin = crossed(goal, logits), goal.margin(logits)
            end, near = pick(won, tried, end), pick(won, near, tried)
            below = torch.where(won, margin, below)
            above = torch.where(won, above, margin)
    return end


@dataclass(frozen=True, kw_only=True)
class FAB(MinimalAttack):
    """Fast adaptive boundary attack (Croce and Hein 2020b, algorithm 1).

    Each step projects the point and the image on the nearest linearised boundary inside the
    box, and goes on from a mix of both; a row that crossed steps back towards its image.
    Constants of the paper: bias at most 0.1, extrapolation 1.05, backward step 0.9, a final
    search of 3 steps.

    Deviations: the final search comes once, at the end, and aims a little beyond the boundary;
    adversarial means by more than rounding. A targeted goal has one rival at a time: the class
    that is strongest at the moment against the target; and no bias before the first success,
    as it can hold a row between the boundaries of several rivals.

    Args:
        norm: L1, L2 or LINF.
        steps: per restart, at least 1.
        restarts: the first begins at the image, others within half the distance found so far.
        targets: rival classes of an `Untargeted` goal that get a run each, those of the largest
            logits on the image (the targeted version, one gradient a step); None for the
            nearest of all in each step (a gradient for each class).
        enough: a row with an adversarial image at most this far is done; None for never.

    Raises:
        InputError: a value out of range, or another norm.

    >>> FAB(targets=9)
    FAB(norm=l2, steps=100, restarts=1, targets=9, enough=None)
    """

    about: ClassVar[About] = About(
        paper="Croce and Hein 2020b, algorithm 1",
        kind="minimal",
        norms=("l2", "l1", "linf"),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    copies: ClassVar[int] = 24
    norm: Ball = L2
    steps: Count = 100
    restarts: Count = 1
    targets: Count | None = None
    enough: Nonnegative | None = None

    def cost(self, sizes: Sizes) -> Work:
        rivals = min(self.targets or sizes.classes, sizes.classes - 1)
        runs = sizes.test * self.steps * self.restarts * (1 if self.targets is None else rivals)
        each = rivals if self.targets is None else 1
        return Work(forwards=2 * runs + (FINAL + 2) * sizes.test, gradients=runs * each)

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        x = x.detach()
        with model.frozen():
            with torch.no_grad():
                logits = model.logits(x)
            best = x.clone()
            left = (~goal.reached(logits.argmax(1))).nonzero()[:, 0]
            size = x.new_full((len(x),), float("inf"))
            for restart in range(self.restarts):
                for pair in self._pairs(goal, logits):
                    start = x
                    if restart:
                        radius = per_row(size.clamp(max=RADIUS[self.norm])) / 2
                        start = (x + radius * self.norm.sample(x, 1.0, rng)).clamp_(0, 1)
                    if len(left) == 0:
                        break
                    with model.cost.on_rows(left):
                        end = self.run(model, x[left], goal[left], pair and pair[left], start[left])
                    far = self.norm.distance(end, x[left])
                    far = torch.where(far > 0, far, float("inf"))
                    best[left] = pick(far < size[left], end, best[left])
                    size[left] = far.minimum(size[left])
                    left = left[size[left] > (self.enough or 0.0)]
            ends = size.isfinite().nonzero()[:, 0]
            with model.cost.on_rows(ends):
                best[ends] = _refine(model, x[ends], best[ends], goal[ends])
        return best

    def _pairs(self, goal: Goal, logits: Tensor) -> Iterable[Goal | None]:
        """Whose boundary each run approaches."""
        if self.targets is None or not isinstance(goal, Untargeted):
            return [None]
        return rivalries(goal, logits, self.targets)

    def run(
        self, model: Classifier, x: Tensor, goal: Goal, pair: Goal | None, start: Tensor
    ) -> Tensor:
        """One run of algorithm 1 for all rows.

        Args:
            goal: what counts as adversarial.
            pair: the two classes whose boundary is approached; None for the nearest of all.
            start: where to begin, (N, C, H, W).

        Returns:
            Images (N, C, H, W): the nearest adversarial ones, or x.
        """
        out, rows = x.clone(), torch.arange(len(x), device=x.device)
        untargeted = isinstance(goal, Untargeted)
        centre, point, best, size = x, start, x, x.new_full((len(x),), float("inf"))
        for _ in range(self.steps):
            with model.cost.on_rows(rows):
                holding, rivals = _contest(model, point, goal, pair)
                normal, rise, logits = nearest_boundary(model, point, holding, rivals, self.norm)
                rise = rise - 3 * ROUNDING * logits.abs().amax(1)  # who makes it up has crossed
                most = torch.where(size.isfinite() | untargeted, BIAS, 0.0)
                point = _towards(centre, point, normal, rise, self.norm, most)
                with torch.no_grad():
                    won = crossed(goal, model.logits(point))
            far = self.norm.distance(point, centre)
            best = pick(won & (far < size), point, best)
            size = torch.where(won, size.minimum(far), size)
            point = pick(won, centre + BACKWARD * (point - centre), point)
            going = (size > (self.enough or 0.0)).nonzero()[:, 0]
            if len(going) < len(rows):
                out[rows] = best
                rows, goal = rows[going], goal[going]
                pair = None if pair is None else pair[going]
                centre, point, best, size = centre[going], point[going], best[going], size[going]
            if len(rows) == 0:
                break
        return out.index_copy_(0, rows, best)
