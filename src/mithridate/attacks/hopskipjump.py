"""HopSkipJump: the direction of the boundary, estimated from labels alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.attacks.base import Count, Natural, Near, Positive, limits, per_row
from mithridate.attacks.decision import (
    CHUNK,
    DecisionAttack,
    Line,
    directions,
    importance,
    shrink,
)
from mithridate.attacks.refusals import OnRefusal
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.norms import L2

_HALVINGS = 8  # tries of the geometric step search
_FEWEST = 4  # probes below which an estimate is not worth a query
_AT_ONCE = 10  # probes between which a row behind a guard learns from refusals

BLOCK = 3 * 2**22
"""Numbers drawn at once, 1,024 probes of 3 x 64 x 64: another size draws other numbers."""
FLIGHT = 3 * 2**22
"""Numbers of the images in flight at once: bounds the memory, not the result."""


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(DecisionAttack):
    """Decision-based: estimate the boundary's normal, step, return to it (Chen et al. 2020).

    Algorithm 2, all images together: every probe of an iteration goes through `model.labels`
    in shared calls. Deviations, each of which saves queries:

    - start: the nearest of 32 random images, coarse ones among them, after a rough search, not
      the first that works;
    - equation 9's probes are drawn at full and, less and less, at half resolution; in L2 they
      are larger where the present step is large (the gradient is, too) and orthogonal to it:
      the estimate then vanishes where the step is the normal, whatever the probes' covariance;
    - the bisection ends at 0.002 x the distance (section IV-A ties it to the dimension: 14
      queries a search and not 6), and begins as far down as the last ones ended, not at x;
    - probes have length 0.1 x that of the present step in L2, also in LINF (section IV-C: the
      distance over the dimension, there far shorter than the bracket: most probes then answer
      alike, and say little);
    - probes start from the middle of the bracket, and farther out while fewer than half of them
      succeed, as the boundary is curved;
    - in LINF, the step is in proportion to the estimate, cut at its 1.4-fold mean, not its sign;
    - estimates are averaged over iterations with weight `momentum`;
    - the geometric search tries points no farther than the present one: no step loses;
    - with a `budget`, estimates begin at no more than 10 probes and iterations run until it
      is spent.

    All rows share the probes of an iteration, so that a row's result does not depend on its
    neighbours. A row without a starting point comes back as it is. Probes that are too many to
    lie in memory at once are drawn and asked about in blocks (`Probes`): an estimate takes 350 MB
    at most, or seven images of more than 12 million values.

    Of a row that a guard refused, probes are as long as the guard answers
    (`refusals.Spacing`), those that it refuses are left out, and every other image asked about is
    moved aside by as much, at random, so that no two are alike (`Line.apart`).

    Args:
        norm: L2 or LINF.
        max_iter: iterations where there is no budget.
        init_eval: probes of the first estimate; the t-th has sqrt(t) times as many.
        max_eval: cap of the probes of one estimate.
        budget: queries per image, never exceeded; None to stop after `max_iter`.
        momentum: weight of the past in the estimate, in [0, 1).
        init_trials: random images tried for a start that reaches the goal.
        starts: images (M, C, H, W) tried first, for goals that random images do not reach.
        within: distance at which an image is done; one that does not get there comes back as it is.
            None to get as near as the budget allows.
        on_refusal: "adapt" to a guard that refuses, or "stop": the image is given up, as by who
            does not know the guard.

    Raises:
        InputError: a value out of range, or another norm.

    >>> from mithridate.classifier import Classifier
    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.9, 0.5]]]]), random.rng(0)
    >>> fooled = HopSkipJump(budget=200).perturb(model, x, Untargeted([0]), rng=rng)
    >>> round(L2.distance(fooled, x).item(), 2)  # the nearest point is at 0.4 / sqrt(2)
    0.28
    """

    about: ClassVar[About] = About(
        paper="Chen et al. 2020, algorithm 2",
        kind="minimal",
        norms=("l2", "linf"),
        access=("label",),
        atlas=("AML.T0015", "AML.T0043.001"),
        nist=("025",),
    )

    version: ClassVar[int] = 3
    tolerance = 0.002
    norm: Near = L2
    max_iter: Natural = 64
    init_eval: Annotated[int, limits(_FEWEST)] = 100
    max_eval: Annotated[int, limits(_FEWEST)] = 1000
    budget: Count | None = None
    momentum: Annotated[float, limits(0, 0.999)] = 0.7
    init_trials: Natural = 100
    within: Positive | None = None
    on_refusal: OnRefusal = "adapt"
    starts: Tensor | None = field(default=None, repr=False, compare=False, metadata={"text": False})

    def cost(self, sizes: Sizes) -> Work:
        """The budget; without one about the probes, and 14 an iteration for its two searches."""
        queries = self.budget
        if queries is None:
            probes = (self.init_eval * (t + 1) ** 0.5 for t in range(self.max_iter))
            queries = int(sum(min(self.max_eval, count) + 14 for count in probes))
        return Work(forwards=sizes.test * queries)

    def held(self, n: int, values: int) -> int:
        piece = _piece(self.max_eval, values)
        in_flight = min(n * piece, max(_flying(values), piece))
        return (16 * n + 7 * in_flight) * values

    def walk(self, line: Line, rows: Tensor, rng: torch.Generator) -> Iterator[None]:
        x = line.x
        normal, lift = torch.zeros_like(x), x.new_zeros(len(x))
        t = 0
        while t < self.max_iter or self.budget is not None:
            t += 1
            rows = line.left(rows, _FEWEST + 2)
            if len(rows) == 0:
                break
            most, smooth = _AT_ONCE if line.anew else None, 2 / (1 + t / 10)
            probes = Probes(self._count(t), x, rng, "probes", t, smooth=smooth, most=most)
            estimate = torch.zeros_like(x)
            for part in probes.parts(rows):
                estimate[part], share = self._estimate(line, part, probes, lift[part])
                lift[part] = (lift[part] + 0.01 * (0.5 - share)).clamp(0, 0.2)
            normal = self.momentum * normal + estimate
            moved = self._jump(line, rows, normal, 1 / math.sqrt(t + 1))
            line.close(moved, self.tolerance)
            yield

    def _count(self, t: int) -> int:
        first = self.init_eval if self.budget is None else min(10, self.init_eval)
        return min(int(first * math.sqrt(t)), self.max_eval)

    def _estimate(
        self, line: Line, rows: Tensor, probes: Probes, lift: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Equations 9 and 16 at the boundary of each row, and the share of probes that succeed."""
        x, centre = line.x[rows][:, None], line.delta[rows]
        along = L2.steepest(centre)
        middle = (1 + line.low[rows] / line.high[rows]) / 2
        centre = centre * per_row(middle + lift)
        room = line.room(rows)[:, None] - 2
        hits, count = x.new_zeros(len(rows)), torch.zeros_like(rows)
        sums = None  # of the pieces before the last: of the probes that succeed, and of all
        done = 0
        for piece in probes:
            length = line.reach(rows)
            reach = length[:, None, None, None, None]
            moved = self._step(piece, line.delta[rows], along, length)
            moved = moved.add_(x + centre[:, None]).clamp_(0, 1).sub_(x)
            asked = torch.arange(done, done + len(piece), device=x.device) < room
            asked &= line.spacing.hopes(rows)[:, None]
            reached = x.new_zeros(asked.shape)
            owners, length = (part[:, None].expand_as(asked)[asked] for part in (rows, length))
            hit, refused = line.answer(owners, moved[asked], length)
            reached[asked] = hit.to(x)
            asked[asked.clone()] = ~refused
            moved = moved.sub_(centre[:, None]).div_(reach)
            hits, count, done = hits + reached.sum(1), count + asked.sum(1), done + len(piece)
            if done < probes.count:
                pair = torch.stack([reached, asked.to(x)])
                more = torch.einsum("knb,nbchw->knchw", pair, moved)
                sums = more if sums is None else sums.add_(more)
        share = hits / count.clamp(min=1)
        # One-sided answers say only "inward" or "outward": the baseline would erase that.
        mixed = (share > 0) & (share < 1)
        gain, base = torch.where(mixed, 1, 2).to(x), torch.where(mixed, share, 1)
        weight = gain[:, None] * reached - base[:, None] * asked
        estimate = torch.einsum("nb,nbchw->nchw", weight, moved)
        if sums is not None:
            estimate += per_row(gain) * sums[0] - per_row(base) * sums[1]
        if self.norm is L2:
            estimate = estimate - per_row((estimate * along).flatten(1).sum(1)) * along
        return estimate, share

    def _step(self, probes: Tensor, delta: Tensor, along: Tensor, reach: Tensor) -> Tensor:
        """Probes of length `reach` (N,), in L2 shaped for each row: (N, B, C, H, W)."""
        shaped = probes[None]
        if self.norm is L2:
            shaped = probes * importance(delta)[:, None]
            dot = torch.einsum("nbchw,nchw->nb", shaped, along)
            shaped -= dot[:, :, None, None, None] * along[:, None]
        length = shaped.flatten(2).norm(dim=2).clamp(min=1e-12)[:, :, None, None, None]
        return (reach[:, None, None, None, None] * shaped).div_(length)

    def _jump(self, line: Line, rows: Tensor, normal: Tensor, size: float) -> Tensor:
        """The geometric step search of section IV-B; returns the rows that moved."""
        moved = torch.zeros(len(line.x), dtype=torch.bool, device=rows.device)
        going = rows
        for k in range(_HALVINGS):
            going = line.left(going)
            if len(going) == 0:
                break
            radius = line.high[going]
            step = self._direction(normal[going]) * per_row(size * 0.5**k * radius)
            moved_to, length = line.apart(going, line.x[going] + line.delta[going] + step)
            delta = shrink(moved_to.clamp_(0, 1) - line.x[going], radius, self.norm)
            reached, _ = line.answer(going, delta, length)
            line.accept(going[reached], delta[reached])
            moved[going[reached]] = True
            going = going[~reached]
        return rows[moved[rows]]

    def _direction(self, normal: Tensor) -> Tensor:
        if self.norm is L2:
            return L2.steepest(normal)
        mean = normal.abs().flatten(1).mean(1).clamp(min=1e-12)
        return (0.7 * normal / per_row(mean)).clamp(-1, 1)


class Probes:
    """Random directions around images of one shape, the same at every pass over them.

    Drawn in blocks of as many as `BLOCK` numbers hold, and handed out in pieces of as many as
    `FLIGHT` numbers hold. A block's numbers depend on the seed, the names and the block's place
    alone. Where one block is all, it is kept; otherwise every pass draws anew.

    Args:
        count: of all pieces together.
        x: images (N, C, H, W), for their shape, type and device.
        rng: only its seed counts.
        names: of the children of `rng` that the blocks are drawn from.
        smooth: as for `directions`.
        most: probes of a piece; None for as many as fit.
    """

    def __init__(
        self,
        count: int,
        x: Tensor,
        rng: torch.Generator,
        *names: str | int,
        smooth: float = 1.0,
        most: int | None = None,
    ) -> None:
        self.count, self.x, self.rng, self.names, self.smooth = count, x, rng, names, smooth
        self.most = count if most is None else most
        self.values = x.shape[1:].numel()
        self.block = _fitting(BLOCK, self.values)
        self._only = self._drawn(0) if count <= self.block else None

    def __iter__(self) -> Iterator[Tensor]:
        """Pieces (B, C, H, W)."""
        size = min(self.most, _piece(self.count, self.values))
        for k in range(-(-self.count // self.block)):
            drawn = self._drawn(k) if self._only is None else self._only
            yield from torch.split(drawn, size)

    def parts(self, rows: Tensor) -> Iterator[Tensor]:
        """Rows (N,), as many at a time as may be in flight with a piece each."""
        size = max(1, _flying(self.values) // _piece(self.count, self.values))
        return (rows[i : i + size] for i in range(0, len(rows), size))

    def _drawn(self, k: int) -> Tensor:
        names = (*self.names, k) if k else self.names
        stream = random.child(self.rng, *names, device=self.x.device)
        count = min(self.block, self.count - k * self.block)
        return directions(count, self.x, stream, smooth=self.smooth)


def _fitting(numbers: int, values: int) -> int:
    return max(1, numbers // max(1, values))


def _piece(count: int, values: int) -> int:
    """Probes of a row that are asked about together."""
    return min(count, _fitting(BLOCK, values), _fitting(FLIGHT, values))


def _flying(values: int) -> int:
    """Images of so many values that are in flight at once, where a piece is no larger."""
    return min(CHUNK, _fitting(FLIGHT, values))
