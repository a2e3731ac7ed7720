"""Square attack: random squares, kept where the margin falls. Scores only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate.attacks.base import Ball, BoundedAttack, limits, per_row, pick
from mithridate.attacks.refusals import OnRefusal, Spacing
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.errors import QueriesRefused
from mithridate.goals import Goal
from mithridate.norms import L1, L2, LINF, Norm
from mithridate.rng import Draws, by_row

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After these of 10,000 queries the share of pixels halves (as in the authors' code)."""
Proposal = Callable[[Tensor, Tensor, float, float, Draws], Tensor]
FIRST, MOST = 4.0, 100
"""Squares at once that a first refusal is taken for, and that are tried at most."""


def share(p: float, query: int, queries: int) -> float:
    """Share of the pixels in a square at some query; `p` at first."""
    at = int(query / queries * 10_000)
    return float(p / 2 ** sum(at > mark for mark in HALVINGS))


def _stripes(best: Tensor, x: Tensor, eps: float, part: float, draws: Draws) -> Tensor:
    """Start in LINF: eps up or down in each column and channel."""
    n, channels, _, width = x.shape
    signs = _signs(draws.uniform(channels * width)).view(n, channels, 1, width)
    return (x + eps * signs).clamp(0, 1)


def _paint(best: Tensor, x: Tensor, eps: float, part: float, draws: Draws) -> Tensor:
    """Algorithm 2: a square of one sign per channel; the other sign where that is there already."""
    _, channels, height, width = x.shape
    side = min(max(1, round(math.sqrt(part * height * width))), height, width)
    u = draws.uniform(2 + channels)
    inside = _window(*_corner(u, x, side), x, side)
    shift = eps * _signs(u[:, 2:])[:, :, None, None]
    up, down = (torch.where(inside, (x + s).clamp_(0, 1), best) for s in (shift, -shift))
    idle = (up == best).flatten(1).all(1)
    return pick(idle, down, up)


def _tiles(
    best: Tensor, x: Tensor, eps: float, part: float, draws: Draws, norm: Norm = L2
) -> Tensor:
    """Start in L2 and L1: a grid of about 5 x 5 bumps, each of a random sign and lie."""
    n, channels, height, width = x.shape
    side = max(1, min(height, width) // 5)
    down, across = height // side, width // side
    u = draws.uniform((channels + 1) * down * across).view(n, channels + 1, down, across)
    u = u.repeat_interleave(side, 2).repeat_interleave(side, 3)
    bump = bumps(side).to(x)
    lying = torch.where(u[:, :1] < 0.5, bump.repeat(down, across), bump.T.repeat(down, across))
    top, left = (height - down * side) // 2, (width - across * side) // 2
    rest = (left, width - across * side - left, top, height - down * side - top)
    delta = F.pad(lying * _signs(u[:, 1:]), rest)
    size = norm.size(delta)
    return norm.inside(x + eps * (delta / per_row(torch.where(size > 0, size, 1))), x, eps)


def _bump(
    best: Tensor, x: Tensor, eps: float, part: float, draws: Draws, norm: Norm = L2
) -> Tensor:
    """Algorithm 3, in L1 by its norm: a window gets a bump and the norm of another, now empty."""
    _, channels, height, width = x.shape
    side = max(3, round(math.sqrt(part * height * width))) // 2 * 2 + 1
    side = min(side, height - 1 + height % 2, width - 1 + width % 2)
    u, delta, power = draws.uniform(5 + channels), best - x, 1 if norm is L1 else 2
    top, left = _corner(u, x, side)
    here, there = _window(top, left, x, side), _window(*_corner(u[:, 2:], x, side), x, side)
    bump = bumps(side).to(x)
    row = (torch.arange(height, device=x.device) - top[:, None]).clamp(0, side - 1)[:, :, None]
    column = (torch.arange(width, device=x.device) - left[:, None]).clamp(0, side - 1)[:, None]
    lying = torch.where(u[:, 4, None, None] < 0.5, bump[row, column], bump.T[row, column])
    old = delta * here
    new = lying[:, None] * _signs(u[:, 5:])[:, :, None, None] * here
    new = new + old / _length(old, power).clamp(min=1e-12)
    sizes = delta.abs() ** power
    unused = per_row((eps**power - sizes.flatten(1).sum(1)).clamp(min=0))
    freed = (sizes * (here | there)).sum((2, 3), keepdim=True)
    length = (unused / channels + freed) ** (1 / power)
    new = new / _length(new, power).clamp(min=1e-12) * length
    moved = torch.where(here, new, torch.where(there, 0, delta))
    return norm.inside(x + moved, x, eps)


def bumps(side: int) -> Tensor:
    """The paper's eta: two pyramids of opposite sign, one over the other; (side, side), norm 1."""

    def pyramid(height: int, width: int) -> Tensor:
        row = (torch.arange(height) - height // 2).abs()[:, None]
        far = row.maximum((torch.arange(width) - width // 2).abs())
        terms = 1 / torch.arange(1, max(height, width) // 2 + 2).square()
        return terms.flip(0).cumsum(0).flip(0)[far]

    both = torch.cat([pyramid(side // 2, side), -pyramid(side - side // 2, side)])
    return both / both.square().sum().sqrt()


def _signs(u: Tensor) -> Tensor:
    return torch.where(u < 0.5, -1.0, 1.0)


def _length(delta: Tensor, power: int) -> Tensor:
    """L1 (power 1) or L2 norm (2) of each channel, (N, C, 1, 1)."""
    return (delta.abs() ** power).sum((2, 3), keepdim=True) ** (1 / power)


def _corner(u: Tensor, x: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Top and left of a window of each row, from the first two of its numbers."""
    height, width = x.shape[2:]
    return (u[:, 0] * (height - side + 1)).long(), (u[:, 1] * (width - side + 1)).long()


def _window(top: Tensor, left: Tensor, x: Tensor, side: int) -> Tensor:
    """Where the windows are: bool (N, 1, H, W)."""
    row = torch.arange(x.shape[2], device=x.device) - top[:, None]
    column = torch.arange(x.shape[3], device=x.device) - left[:, None]
    down, across = (row >= 0) & (row < side), (column >= 0) & (column < side)
    return (down[:, :, None] & across[:, None])[:, None]


@dataclass(frozen=True, kw_only=True)
class Square(BoundedAttack):
    """Random search by squares (Andriushchenko et al. 2020, algorithms 1 to 3). Scores only.

    Each iteration tries one square (LINF) or a bump of both signs (L2, L1) on each row and keeps it
    where the goal's margin of log-probabilities falls. A row costs one query an iteration,
    the look at the image itself included, and leaves once it has reached its goal.

    Deviations: a targeted goal goes by its margin too (the paper: cross-entropy); an LINF
    square that would change nothing takes the other sign, as in the authors' first code.
    Numbers come from a seed per row, so a row's result does not depend on who is left.

    Behind a guard that refuses, it adapts and draws anew (OARS: Feng et al. 2023): it tries
    several squares at once; each refusal makes them more, so that queries are less alike, each
    answer a few less, and the row goes on. A refused query counts as one of `queries`. Deviation:
    they resize the square, by a search before the attack; many small ones all over the image
    change more of what guards compare than a large one of one sign.

    Args:
        eps: radius of the ball, at least 0.
        norm: LINF, L2, or L1 as Croce and Hein 2021 (appendix) have it.
        queries: per row at most, at least 2.
        p: share of the pixels that the first squares cover; the schedule of 10,000 queries is
            stretched to `queries`.
        on_refusal: "adapt", or "stop": the row is given up, as by who does not know the guard.

    Raises:
        InputError: a value out of range, or another norm.

    >>> Square(eps=0.3)
    Square(eps=0.3, norm=linf, queries=5000, p=0.8, on_refusal='adapt')
    """

    about: ClassVar[About] = About(
        paper="Andriushchenko et al. 2020, algorithms 1 to 3",
        kind="bounded",
        norms=("linf", "l2", "l1"),
        access=("score",),
        atlas=("AML.T0015", "AML.T0043.001"),
        nist=("025",),
    )

    version: ClassVar[int] = 3
    norm: Ball = LINF
    queries: Annotated[int, limits(2)] = 5000
    p: Annotated[float, limits(0, 1, open_low=True)] = 0.8
    on_refusal: OnRefusal = "adapt"

    @classmethod
    def usual(cls, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        return super().usual(image_shape) | {"queries": 2000}

    def cost(self, sizes: Sizes) -> Work:
        return Work(forwards=sizes.test * self.queries)

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        """Algorithm 1 for all rows: one query for each row and iteration, until it is done."""
        x = x.detach()
        with model.frozen():
            draws = by_row(rng, len(x))
            start: Proposal = _stripes
            propose: Proposal = _paint
            if self.norm is not LINF:
                start, propose = (partial(f, norm=self.norm) for f in (_tiles, _bump))
            scores = model.log_scores(x)
            rows, margin = (
                torch.arange(len(x), device=x.device),
                x.new_full((len(x),), float("inf")),
            )
            out, best, centre = x.clone(), x, x
            started, spacing = False, Spacing(x[:1])
            whole = torch.zeros(1, dtype=torch.long, device=x.device)
            for i in range(self.queries):
                going = (~goal.reached(scores.argmax(1))).nonzero()[:, 0]
                if len(going) < len(rows):
                    out[rows] = best
                    rows, margin, goal = rows[going], margin[going], goal[going]
                    centre, best = centre[going], best[going]
                    draws.keep(going)
                if len(rows) == 0 or i == self.queries - 1:
                    break
                part = share(self.p, i, self.queries)
                tried = best
                count = min(max(1, round(float(spacing.least))), MOST) if started else 1
                for _ in range(count):
                    way = propose if started else start
                    tried = way(tried, centre, self.eps, part, draws)
                try:
                    with model.cost.on_rows(rows):
                        scores = model.log_scores(tried)
                except QueriesRefused:
                    spacing.learn(whole, whole == 0, x.new_tensor([FIRST]))
                    if self.on_refusal == "stop" or not spacing.hopes(whole):
                        raise
                    continue
                started = True
                spacing.learn(whole, whole > 0, x.new_zeros(1))
                tried_margin = goal.margin(scores)
                best = pick(tried_margin < margin, tried, best)
                margin = margin.minimum(tried_margin)
            return out.index_copy_(0, rows, best)
