"""HopSkipJump: the direction of the boundary, estimated from labels alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.attacks.base import MinimalAttack
from mithridate.attacks.decision import (
    CHUNK,
    Bracket,
    Progress,
    Questions,
    begin,
    directions,
    importance,
    last_images,
    parts,
    per_row,
    shrink,
)
from mithridate.classifier import Oracle
from mithridate.errors import InputError, check_number
from mithridate.goals import Goal
from mithridate.norms import L2, LINF, Norm

_TOLERANCE = 0.002  # width of the bracket around the boundary, relative to the distance
_RADIUS = {"l2": 0.1, "linf": 0.2}  # length of a probe in L2, relative to the distance in norm
_HALVINGS = 8  # tries of the geometric step search
_FEWEST = 4  # probes below which an estimate is not worth a query


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(MinimalAttack):
    """Decision-based: estimate the boundary's normal, step, return to it (Chen et al. 2020).

    Algorithm 2, all images together: every probe of an iteration goes through `model.labels`
    in shared calls. Deviations, each of which saves queries:

    - start: the nearest of 16 random images after a rough search, not the first that works;
    - equation 9's probes are drawn at full and, less and less, at half resolution; in L2 they
      are larger where the present step is large (the gradient is, too) and orthogonal to it:
      the estimate then vanishes where the step is the normal, whatever the probes' covariance;
    - the bisection ends at 0.002 x the distance, and probes have length 0.1 (LINF: 0.2) x it
      (sections IV-A and IV-C tie both to the dimension: 14 queries a search and not 9);
    - in L2, probes start from the middle of the bracket, and farther out while fewer than half
      of them succeed, as the boundary is curved;
    - in LINF, the step is in proportion to the estimate, cut at its 1.4-fold mean, not its sign;
    - estimates are averaged over iterations with weight `momentum`;
    - the geometric search tries points no farther than the present one: no step loses;
    - with a `budget`, estimates begin at no more than 10 probes and iterations run until it
      is spent.

    All rows share the probes of an iteration, so that a row's result does not depend on its
    neighbours. A row without a starting point comes back as it is.

    Args:
        norm: L2 or LINF.
        max_iter: iterations where there is no budget.
        init_eval: probes of the first estimate; the t-th has sqrt(t) times as many.
        max_eval: cap of the probes of one estimate.
        budget: queries per image, never exceeded; None to stop after `max_iter`.
        momentum: weight of the past in the estimate, in [0, 1).
        init_trials: random images tried for a start that reaches the goal.
        starts: images (M, C, H, W) tried first, for goals that random images do not reach.

    Raises:
        InputError: a value out of range, or another norm.

    >>> from mithridate.classifier import Classifier
    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.9, 0.5]]]]), random.rng(0)
    >>> found = HopSkipJump(budget=200).perturb(model, x, Untargeted([0]), rng=rng)
    >>> round(L2.distance(found, x).item(), 2)  # the nearest point is at 0.4 / sqrt(2)
    0.28
    """

    norm: Norm = L2
    max_iter: int = 64
    init_eval: int = 100
    max_eval: int = 1000
    budget: int | None = None
    momentum: float = 0.7
    init_trials: int = 100
    starts: Tensor | None = field(default=None, repr=False, compare=False, metadata={"text": False})

    def __post_init__(self) -> None:
        if self.norm is not L2 and self.norm is not LINF:
            raise InputError(f"hopskipjump works in l2 or linf, got {self.norm}")
        check_number("max_iter", self.max_iter, low=0)
        check_number("init_eval", self.init_eval, low=_FEWEST)
        check_number("max_eval", self.max_eval, low=_FEWEST)
        check_number("momentum", self.momentum, low=0, high=0.999)
        check_number("init_trials", self.init_trials, low=0)
        if self.budget is not None:
            check_number("budget", self.budget, low=1)

    def held(self, n: int, values: int) -> int:
        most = self.max_eval
        return (16 * n + 7 * min(n * most, max(CHUNK, most))) * values

    def perturb(self, model: Oracle, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        return last_images(self.steps(model, x, goal, rng=rng), x)

    def steps(
        self, model: Oracle, x: Tensor, goal: Goal, *, rng: torch.Generator
    ) -> Iterator[Progress]:
        """The attack, one item after the start, each iteration and the end: a curve of queries."""
        ask, bracket = Questions(model, x, goal, self.budget), Bracket(x, self.norm)
        every = rows = begin(ask, bracket, rng, self.init_trials, self.starts)
        bracket.close(ask, rows, _TOLERANCE)
        yield Progress.of(ask, bracket)

        normal, lift = torch.zeros_like(x), x.new_zeros(len(x))
        t = 0
        while t < self.max_iter or self.budget is not None:
            t += 1
            rows = ask.left(rows, _FEWEST + 2)
            if len(rows) == 0:
                break
            stream = random.child(rng, "probes", t, device=x.device)
            probes = directions(self._count(t), x, stream, smooth=1 / (1 + t / 30))
            estimate = torch.zeros_like(x)
            for part in parts(rows, len(probes)):
                estimate[part], share = self._estimate(ask, bracket, part, probes, lift[part])
                lift[part] = (lift[part] + 0.01 * (0.5 - share)).clamp(0, 0.2)
            normal = self.momentum * normal + estimate
            moved = self._jump(ask, bracket, rows, normal, 1 / math.sqrt(t + 1))
            bracket.close(ask, moved, _TOLERANCE)
            yield Progress.of(ask, bracket)
        bracket.settle(ask, every)
        yield Progress.of(ask, bracket)

    def _count(self, t: int) -> int:
        first = self.init_eval if self.budget is None else min(10, self.init_eval)
        return min(int(first * math.sqrt(t)), self.max_eval)

    def _estimate(
        self, ask: Questions, bracket: Bracket, rows: Tensor, probes: Tensor, lift: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Equations 9 and 16 at the boundary of each row, and the share of probes that succeed."""
        delta = bracket.delta[rows]
        centre, shaped, along = delta, probes[None], L2.steepest(delta)
        if self.norm is L2:
            middle = (1 + bracket.low[rows] / bracket.high[rows]) / 2
            centre = delta * per_row(middle + lift)
            shaped = probes * importance(delta)[:, None]
            shaped = shaped - _dot(shaped, along)[:, :, None, None, None] * along[:, None]
        length = shaped.flatten(2).norm(dim=2).clamp(min=1e-12)[:, :, None, None, None]
        reach = (_RADIUS[self.norm.name] * bracket.high[rows])[:, None, None, None, None]
        x = ask.x[rows][:, None]
        points = (x + centre[:, None] + reach * shaped / length).clamp_(0, 1)

        left = ask.room(rows)[:, None] - 2
        asked = torch.arange(len(probes), device=x.device) < left
        pairs = rows[:, None].expand_as(asked)[asked]
        reached = x.new_zeros(asked.shape)
        reached[asked] = ask(pairs, (points - x)[asked]).to(x)
        count = asked.sum(1)
        share = reached.sum(1) / count
        # One-sided answers say only "inward" or "outward": the baseline would erase that.
        mixed = (share > 0) & (share < 1)
        weight = torch.where(mixed[:, None], reached - share[:, None], 2 * reached - 1) * asked
        moved = (points - x - centre[:, None]) / reach
        estimate = torch.einsum("nb,nbchw->nchw", weight, moved)
        if self.norm is L2:
            estimate = estimate - per_row((estimate * along).flatten(1).sum(1)) * along
        return estimate, share

    def _jump(
        self, ask: Questions, bracket: Bracket, rows: Tensor, normal: Tensor, size: float
    ) -> Tensor:
        """The geometric step search of section IV-B; returns the rows that moved."""
        moved = torch.zeros(len(ask.x), dtype=torch.bool, device=rows.device)
        going = rows
        for k in range(_HALVINGS):
            going = ask.left(going)
            if len(going) == 0:
                break
            radius = bracket.high[going]
            step = self._direction(normal[going]) * per_row(size * 0.5**k * radius)
            delta = (ask.x[going] + bracket.delta[going] + step).clamp_(0, 1) - ask.x[going]
            delta = shrink(delta, radius, self.norm)
            reached = ask(going, delta)
            bracket.accept(going[reached], delta[reached])
            moved[going[reached]] = True
            going = going[~reached]
        return rows[moved[rows]]

    def _direction(self, normal: Tensor) -> Tensor:
        if self.norm is L2:
            return L2.steepest(normal)
        mean = normal.abs().flatten(1).mean(1).clamp(min=1e-12)
        return (0.7 * normal / per_row(mean)).clamp(-1, 1)


def _dot(many: Tensor, one: Tensor) -> Tensor:
    """(N, B, C, H, W) . (N, C, H, W) -> (N, B)."""
    return torch.einsum("nbchw,nchw->nb", many, one)
