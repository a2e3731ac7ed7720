"""Square attack: random squares, kept where the margin falls. Scores only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mithridate.attacks.base import BoundedAttack
from mithridate.classifier import Classifier, ScoreOracle
from mithridate.errors import InputError, check_number
from mithridate.goals import Goal
from mithridate.norms import L2, LINF, Norm

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After these of 10,000 queries the share of pixels halves (section 5)."""


def share(p: float, query: int, queries: int) -> float:
    """Share of the pixels in a square at some query; `p` at first.

    >>> [share(0.8, i, 10_000) for i in (1, 11, 51, 10_000)]
    [0.8, 0.4, 0.2, 0.0015625]
    """
    at = int(query / queries * 10_000)
    return float(p / 2 ** sum(at > mark for mark in HALVINGS))


class Draws:
    """Uniform numbers for each row from its own seed, whoever else is in the batch.

    A generator hands its numbers to rows by their place; here a number is a hash of the row's
    seed and a count (splitmix64, Steele et al. 2014), so rows may leave.

    >>> draws = Draws(torch.tensor([5, 9]))
    >>> bool((draws.next(3)[1] == Draws(torch.tensor([9])).next(3)[0]).all())
    True
    """

    def __init__(self, seeds: Tensor) -> None:
        self.seeds = seeds
        self.count = 0

    def next(self, k: int) -> Tensor:
        """The rows' next k numbers in [0, 1): float32 (N, k)."""
        step = torch.arange(self.count + 1, self.count + k + 1, device=self.seeds.device)
        self.count += k
        z = self.seeds[:, None] + step * -7046029254386353131
        z = (z ^ _shifted(z, 30)) * -4658895280553007687
        z = (z ^ _shifted(z, 27)) * -7723592293110705685
        return _shifted(z ^ _shifted(z, 31), 40).float() / 2**24


def _shifted(z: Tensor, bits: int) -> Tensor:
    """A shift to the right that fills with 0, as if z were unsigned."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def square_attack(
    model: ScoreOracle,
    x: Tensor,
    goal: Goal,
    *,
    eps: float,
    norm: Norm,
    queries: int,
    p: float,
    rng: torch.Generator,
) -> Tensor:
    """Algorithm 1 for all rows: one query per row and iteration until it reaches its goal.

    Returns:
        Images (N, C, H, W): the adversarial ones, or those of the smallest margin.
    """
    seeds = torch.randint(2**62, (len(x),), generator=rng, device=x.device)
    scores = model.scores(x)
    rows = (~goal.reached(scores.argmax(1))).nonzero()[:, 0]
    out, draws, goal = x.clone(), Draws(seeds[rows]), goal[rows]
    centre = best = x[rows]
    margin = torch.full_like(scores[rows, 0], float("inf"))
    for i in range(1, queries):
        if len(rows) == 0:
            break
        propose = _PROPOSALS[norm] if i > 1 else _STRIPES[norm]
        tried = propose(best, centre, eps, share(p, i - 1, queries), draws)
        with model.cost.on_rows(rows):
            scores = model.scores(tried)
        found = goal.margin(scores.clamp(min=1e-44).log())
        better = found <= margin
        margin = found.minimum(margin)
        best = torch.where(better[:, None, None, None], tried, best)
        going = (~goal.reached(scores.argmax(1))).nonzero()[:, 0]
        if len(going) < len(rows):
            out[rows] = best
            rows, centre, best, margin = rows[going], centre[going], best[going], margin[going]
            draws.seeds, goal = draws.seeds[going], goal[going]
    return out.index_copy_(0, rows, best)
