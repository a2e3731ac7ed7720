"""What attacks that see only labels share: an account of queries, a start, a line search."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate import rng as random
from mithridate.attacks.base import Attack, MinimalAttack
from mithridate.attacks.context import Context
from mithridate.classifier import Oracle
from mithridate.errors import InputError
from mithridate.goals import Goal
from mithridate.norms import L2, Norm

CHUNK = 4096
"""Images in flight at once: bounds the memory, not the result."""


@dataclass(frozen=True, kw_only=True)
class DecisionAttack(MinimalAttack):
    """What asks for labels alone, from an image that reaches the goal inward.

    Args:
        starts: images (M, C, H, W) tried first, for goals that random images do not reach.
    """

    starts: Tensor | None = field(default=None, repr=False, compare=False, metadata={"text": False})

    @abstractmethod
    def steps(
        self, model: Oracle, x: Tensor, goal: Goal, *, rng: torch.Generator
    ) -> Iterator[Progress]:
        """The attack, one item after the start, each step and the end: a curve of queries."""

    def perturb(self, model: Oracle, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        return last_images(self.steps(model, x, goal, rng=rng), x)

    def prepare(self, context: Context) -> tuple[Attack, dict[str, str]]:
        """With a target, random images hardly ever reach the goal: training images do."""
        if self.starts is not None or context.goal == "untargeted":
            return self, {}
        images = context.starts()
        return replace(self, starts=images), {"starts": f"{len(images)} training images"}


class Progress(NamedTuple):
    """Where an attack stands: queries spent by each row (N,), and its best images (N, C, H, W).

    >>> Progress(torch.zeros(1), torch.zeros(1, 1, 2, 2)).images.shape
    torch.Size([1, 1, 2, 2])
    """

    queries: Tensor
    images: Tensor

    @classmethod
    def of(cls, ask: Questions, bracket: Bracket) -> Progress:
        """What is known now; a row without a start is shown as it is."""
        every = torch.arange(len(ask.x), device=ask.x.device)
        return cls(ask.spent.clone(), ask.at(every, bracket.delta))


class Questions:
    """Asks an oracle whether steps from x reach the goals, and counts what each row asked.

    Args:
        model: gives labels, and nothing else is asked of it.
        x: images (N, C, H, W) in [0, 1].
        goal: one per image.
        budget: queries allowed per image; None for no limit. The caller keeps it by asking
            for `left` rows only.

    >>> from mithridate.classifier import Classifier
    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> ask = Questions(model, torch.tensor([[[[0.6, 0.5]]]]), Untargeted([0]), budget=3)
    >>> ask(torch.tensor([0]), torch.tensor([[[[-0.2, 0.0]]]])), ask.spent
    (tensor([True]), tensor([1]))
    """

    def __init__(self, model: Oracle, x: Tensor, goal: Goal, budget: int | None) -> None:
        self.model, self.x, self.goal, self.budget = model, x, goal, budget
        self.spent = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def __call__(self, rows: Tensor, delta: Tensor) -> Tensor:
        """Which of the steps `delta` (M, C, H, W) from `x[rows]` reach the goal: bool (M,)."""
        self.spent.index_add_(0, rows, torch.ones_like(rows))
        if len(rows) == 0:
            return torch.zeros(0, dtype=torch.bool, device=rows.device)
        with self.model.cost.on_rows(rows):
            return self.goal[rows].reached(self.model.labels(self.at(rows, delta)))

    def at(self, rows: Tensor, delta: Tensor) -> Tensor:
        """The images asked about; the same bits whenever they are made again."""
        return (self.x[rows] + delta).clamp_(0, 1)

    def room(self, rows: Tensor) -> Tensor:
        """Queries that each of `rows` can still pay for, the last one of its budget kept back."""
        if self.budget is None:
            return torch.full_like(rows, 2**31)
        return self.budget - 1 - self.spent[rows]

    def left(self, rows: Tensor, need: int = 1) -> Tensor:
        """Those of `rows` that can still pay for `need` queries."""
        return rows if self.budget is None else rows[self.room(rows) >= need]


def parts(rows: Tensor, each: int) -> Iterator[Tensor]:
    """Rows (N,), so many at a time that at `each` images a row no more than CHUNK are in flight.

    >>> [len(part) for part in parts(torch.arange(5), CHUNK // 2)]
    [2, 2, 1]
    """
    size = max(1, CHUNK // each)
    return (rows[i : i + size] for i in range(0, len(rows), size))


def per_row(values: Tensor) -> Tensor:
    """(N,) shaped to multiply images (N, C, H, W)."""
    return values[:, None, None, None]


def shrink(delta: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """Project each row of `delta` (N, C, H, W) on the ball of its own radius (N,), L2 or LINF.

    >>> from mithridate.norms import LINF
    >>> shrink(torch.tensor([[[[3.0, -4.0]]]]), torch.tensor([2.5]), LINF)
    tensor([[[[ 2.5000, -2.5000]]]])
    """
    if norm is L2:
        return delta * per_row((radius / norm.size(delta).clamp(min=1e-12)).clamp(max=1))
    return torch.maximum(torch.minimum(delta, per_row(radius)), -per_row(radius))


class Bracket:
    """Per row, a step that reaches the goal, its size, and a size at which it does not.

    Attributes:
        delta: steps (N, C, H, W); 0 where none is known.
        high: their sizes (N,); infinite where none is known.
        low: sizes at which the same step, shrunk, was seen or is known to fail (N,).
    """

    def __init__(self, x: Tensor, norm: Norm) -> None:
        self.norm = norm
        self.delta = torch.zeros_like(x)
        self.high = x.new_full((len(x),), float("inf"))
        self.low = x.new_zeros(len(x))

    def accept(self, rows: Tensor, delta: Tensor) -> None:
        """New steps that were seen to reach the goal; nothing is known below them."""
        self.delta[rows] = delta
        self.high[rows] = self.norm.size(delta)
        self.low[rows] = 0.0

    def halve(self, ask: Questions, rows: Tensor) -> None:
        """One query per row, in the middle of its bracket."""
        middle = (self.low[rows] + self.high[rows]) / 2
        delta = shrink(self.delta[rows], middle, self.norm)
        reached = ask(rows, delta)
        self.delta[rows[reached]] = delta[reached]
        self.high[rows[reached]] = middle[reached]
        self.low[rows[~reached]] = middle[~reached]

    def close(self, ask: Questions, rows: Tensor, tolerance: float) -> None:
        """Halve until each bracket is narrower than `tolerance` x its size, or the budget ends."""
        while True:
            wide = self.high[rows] - self.low[rows] > tolerance * self.high[rows]
            rows = ask.left(rows[wide])
            if len(rows) == 0:
                return
            self.halve(ask, rows)

    def settle(self, ask: Questions, rows: Tensor) -> None:
        """With the query kept back, move each row a little further out, if it still succeeds.

        A point on the boundary itself may be judged otherwise in a batch of another size,
        where sums are rounded in another order.
        """
        if ask.budget is not None:
            rows = rows[ask.spent[rows] < ask.budget]
        delta = self.delta[rows] * 1.001
        reached = ask(rows, delta)
        self.accept(rows[reached], delta[reached])


def random_starts(
    x: Tensor, count: int, rng: torch.Generator, given: Tensor | None = None
) -> Iterator[Tensor]:
    """The images `given`, then `count` of uniform noise, each (C, H, W) as x."""
    if given is not None:
        yield from given.to(x)
    stream = random.child(rng, "start", device=x.device)
    for _ in range(count):
        yield torch.rand(x.shape[1:], generator=stream, device=x.device).to(x)


def find_starts(
    ask: Questions,
    bracket: Bracket,
    rows: Tensor,
    candidates: Iterable[Tensor],
    *,
    enough: int,
    halvings: int,
) -> Tensor:
    """Rows of a first adversarial step each, kept in `bracket`: the nearest of several.

    Each candidate image is pulled to a tenth nearer than the best so far and asked about, one
    query; where it reaches the goal, `halvings` more queries place it on the line to x.

    Args:
        candidates: images (C, H, W), the same for every row, so that no row's result depends
            on its neighbours.
        enough: a row that has a start tries this many candidates in all; one that has none
            goes on to the last.

    Returns:
        Those of `rows` that found a start.
    """
    norm = bracket.norm
    for k, image in enumerate(candidates):
        trying = rows if k < enough else rows[bracket.high[rows].isinf()]
        trying = ask.left(trying)
        if len(trying) == 0:
            break
        delta = image - ask.x[trying]
        near = torch.minimum(norm.size(delta), 0.9 * bracket.high[trying])
        delta = shrink(delta, near, norm)
        reached = ask(trying, delta)
        fresh = trying[reached]
        bracket.accept(fresh, delta[reached])
        for _ in range(halvings):
            fresh = ask.left(fresh)
            bracket.halve(ask, fresh)
    return rows[bracket.high[rows].isfinite()]


def begin(
    ask: Questions, bracket: Bracket, rng: torch.Generator, trials: int, starts: Tensor | None
) -> Tensor:
    """Rows that have not reached their goal and found a start: the nearest of 16 candidates.

    Args:
        trials: random images to try in all, after those of `starts`.

    Raises:
        InputError: `starts` that are not shaped as the images.
    """
    check_starts(starts, ask.x)
    rows = torch.arange(len(ask.x), device=ask.x.device)
    rows = rows[~ask(rows, torch.zeros_like(ask.x))]
    candidates = random_starts(ask.x, trials, rng, starts)
    return find_starts(ask, bracket, rows, candidates, enough=16, halvings=3)


def last_images(steps: Iterable[Progress], x: Tensor) -> Tensor:
    """The images at which an attack ends; x where it has no step.

    >>> last_images([], torch.zeros(1, 1, 2, 2)).shape
    torch.Size([1, 1, 2, 2])
    """
    for step in steps:
        x = step.images
    return x


def check_starts(starts: Tensor | None, x: Tensor) -> None:
    """Refuse starting images that are not shaped as x.

    Raises:
        InputError: another shape than (M, C, H, W) with x's C, H, W.
    """
    if starts is not None and (starts.dim() != 4 or starts.shape[1:] != x.shape[1:]):
        raise InputError(
            f"starts are images M x {' x '.join(map(str, x.shape[1:]))}, got {tuple(starts.shape)}"
        )


def directions(count: int, x: Tensor, rng: torch.Generator, *, smooth: float = 1.0) -> Tensor:
    """Random directions (count, C, H, W): white noise, and `smooth` x as much at half resolution.

    Gradients of image classifiers are smooth, so that the second part finds more of them; the
    first keeps every direction possible.

    >>> directions(2, torch.zeros(1, 3, 5, 4), random.rng(0)).shape
    torch.Size([2, 3, 5, 4])
    """
    channels, height, width = x.shape[1:]
    half = (count, channels, -(-height // 2), -(-width // 2))
    fine = torch.randn((count, *x.shape[1:]), generator=rng, device=rng.device)
    coarse = torch.randn(half, generator=rng, device=rng.device)
    coarse = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return (fine + smooth * coarse / coarse.square().mean().sqrt().clamp(min=1e-12)).to(x)


def importance(delta: Tensor) -> Tensor:
    """How long probes are, pixel by pixel: the root of the step's local size, never 0."""
    near = F.avg_pool2d(delta.abs(), 3, 1, padding=1, count_include_pad=False)
    mean = near.flatten(1).mean(1).clamp(min=1e-12)
    return (near / per_row(mean) + 0.1).sqrt()
