"""What attacks that see only labels share: an account of queries, a start, a line search."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate.attacks.base import Attack, Context, MinimalAttack, per_row
from mithridate.attacks.refusals import OnRefusal, Spacing, one_by_one
from mithridate.classifier import Guarded, Oracle
from mithridate.errors import InputError
from mithridate.goals import Goal
from mithridate.norms import L2, Norm
from mithridate.rng import Draws, by_row, child

CHUNK = 4096
"""Images in flight at once: bounds the memory, not the result."""
CANDIDATES, HALVINGS = 32, 3
"""Of the candidates for a start, a row tries so many, and halves its way to x so often."""
SIDES = (1, 2, 4, None)
"""Resolutions of the candidates, in turn; None for the images' own."""
REACH = 0.1
"""Length of a random step in L2, relative to that of the present step in L2, in every norm."""
ROUGH = 0.02
"""Tolerance of a bisection whose points are moved aside."""
OUT = 1.001
"""How much farther out a row is moved at last."""


class Progress(NamedTuple):
    """Where an attack stands: queries spent by each row (N,), and its best images (N, C, H, W)."""

    queries: Tensor
    images: Tensor


class StepwiseAttack(MinimalAttack):
    """An attack that shows where it stands after each step."""

    @abstractmethod
    def steps(
        self, model: Any, x: Tensor, goal: Goal, *, rng: torch.Generator
    ) -> Iterator[Progress]:
        """The attack, one item after the start, each step and the end: a curve of queries."""

    def perturb(self, model: Oracle, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        for step in self.steps(model, x, goal, rng=rng):
            x = step.images
        return x


class DecisionAttack(StepwiseAttack):
    """What asks for labels alone, from an image that reaches the goal inward.

    Attributes:
        norm: in which the distance is measured.
        budget: queries per image, never exceeded; None for no limit.
        init_trials: random images tried for a start.
        starts: images (M, C, H, W) tried first, for goals that random images do not reach.
        within: distance at which a row is done; one that does not get there comes back as it is.
            None to get as near as the budget allows.
        on_refusal: "adapt" to a guard that refuses, or "stop": the row is given up.
        tolerance: width of the bracket around the boundary, relative to the distance.
    """

    norm: Norm
    budget: int | None
    init_trials: int
    starts: Tensor | None
    within: float | None
    on_refusal: OnRefusal
    tolerance: float

    @abstractmethod
    def walk(self, line: Line, rows: Tensor, rng: torch.Generator) -> Iterator[None]:
        """Move `rows`, which have a start, nearer; an item after each step."""

    def steps(
        self, model: Oracle, x: Tensor, goal: Goal, *, rng: torch.Generator
    ) -> Iterator[Progress]:
        adapts = self.on_refusal == "adapt" and isinstance(model, Guarded)
        anew = child(rng, "anew", device=x.device) if adapts else None
        line = Line(model, x, goal, self.norm, self.budget, within=self.within, anew=anew)
        rows = line.begin(rng, self.init_trials, self.starts)
        line.close(rows, self.tolerance)
        yield line.progress()
        for _ in self.walk(line, rows, rng):
            yield line.progress()
        line.settle(rows)
        yield line.progress()

    @classmethod
    def usual(cls, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        return {"budget": 1000}

    def prepare(self, context: Context) -> tuple[Attack, dict[str, str]]:
        """With a target, random images hardly ever reach the goal: training images do."""
        if self.starts is not None or context.goal == "untargeted":
            return self, {}
        images = context.starts()
        ready: Attack = replace(cast(Any, self), starts=images)
        return ready, {"starts": f"{len(images)} training images"}


class Line:
    """Per row, a step from x that reaches its goal, and how much of it may fail.

    Asks the model for labels and for nothing else, and counts what each row asked. Who hands in
    rows keeps the budget, by asking for those that are `left` only.

    Args:
        x: images (N, C, H, W) in [0, 1].
        goal: one per image.
        budget: queries allowed per image; None for no limit.
        within: size of a step that is small enough; None where none is.
        anew: draws what is changed where a guard refuses: the model stands behind one, is asked
            about one image at a time, and what it refuses is neither a success nor a failure.
            None where there is no guard, or for who gives up before it.

    Attributes:
        spacing: how far apart queries must be.
        spent: queries (N,).
        delta: steps (N, C, H, W); 0 where none is known.
        high: their sizes in `norm`, (N,); infinite where none is known.
        low: sizes at which the same step, shrunk, was seen or is known to fail (N,).

    >>> from mithridate.classifier import Classifier
    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> line = Line(model, torch.tensor([[[[0.6, 0.5]]]]), Untargeted([0]), L2, budget=3)
    >>> line.ask(torch.tensor([0]), torch.tensor([[[[-0.2, 0.0]]]])), line.spent
    (tensor([True]), tensor([1]))
    """

    def __init__(
        self,
        model: Oracle,
        x: Tensor,
        goal: Goal,
        norm: Norm,
        budget: int | None,
        *,
        within: float | None = None,
        anew: torch.Generator | None = None,
    ) -> None:
        self.model, self.x, self.goal, self.norm, self.budget = model, x, goal, norm, budget
        self.within, self.anew, self.spacing = within, anew, Spacing(x)
        self.spent = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.delta = torch.zeros_like(x)
        self.high, self.low = x.new_full((len(x),), float("inf")), x.new_zeros(len(x))
        self._guess = x.new_full((len(x),), 0.5)  # by what share `close` will shorten a step

    def progress(self) -> Progress:
        """What is known now; a row without a start, or not `within`, is shown as it is."""
        every = torch.arange(len(self.x), device=self.x.device)
        delta = self.delta
        if self.within is not None:
            delta = delta * per_row(self.high <= self.within)
        return Progress(self.spent.clone(), self._at(every, delta))

    def ask(self, rows: Tensor, delta: Tensor) -> Tensor:
        """Which of the steps `delta` (M, C, H, W) from `x[rows]` reach the goal: bool (M,)."""
        return self.answer(rows, delta)[0]

    def answer(
        self, rows: Tensor, delta: Tensor, length: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Which steps reach the goal, as `ask`, and which are refused: bool (M,) each.

        Args:
            length: of what is random in each step, (M,), to learn from refusals.
        """
        self.spent.index_add_(0, rows, torch.ones_like(rows))
        refused = torch.zeros_like(rows, dtype=torch.bool)
        if len(rows) == 0:
            return refused, refused
        x, model = self._at(rows, delta), self.model
        if self.anew is not None:
            labels, refused = one_by_one(model, model.labels, x, rows, torch.zeros_like(rows[0]))
            self.spacing.learn(rows, refused, length)
        else:
            with model.cost.on_rows(rows):
                labels = model.labels(x)
        return self.goal[rows].reached(labels) & ~refused, refused

    def _at(self, rows: Tensor, delta: Tensor) -> Tensor:
        """The images asked about; the same bits whenever they are made again."""
        return (self.x[rows] + delta).clamp_(0, 1)

    def room(self, rows: Tensor) -> Tensor:
        """Queries that each of `rows` can still pay for, the last one of its budget kept back."""
        if self.budget is None:
            return torch.full_like(rows, 2**31)
        return self.budget - 1 - self.spent[rows]

    def left(self, rows: Tensor, need: int = 1) -> Tensor:
        """Those of `rows` that can still pay for `need` queries, and have a use for them.

        A row of size 0 has none: only a model that answers at random takes the image itself.
        """
        rows = rows[self.high[rows] > 0]
        if self.within is not None:
            rows = rows[self.high[rows] > self.within / OUT]
        if self.anew is not None:
            rows = rows[self.spacing.hopes(rows)]
        return rows if self.budget is None else rows[self.room(rows) >= need]

    def accept(self, rows: Tensor, delta: Tensor) -> None:
        """New steps that were seen to reach the goal; nothing is known below them."""
        self.delta[rows] = delta
        self.high[rows] = self.norm.size(delta)
        self.low[rows] = 0.0

    def reach(self, rows: Tensor) -> Tensor:
        """Length in L2 of a random step that tells something new, (M,)."""
        length = (REACH * L2.size(self.delta[rows])).clamp(min=1e-12)
        return length.maximum(self.spacing.least[rows])

    def apart(self, rows: Tensor, moved: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images or steps moved aside at random where a guard has refused: no two are alike.

        A random direction has little to do with the boundary's normal: it changes the image, and
        hardly how far the boundary is.

        Returns:
            They, and by how much they were moved; None where there is no guard.
        """
        if self.anew is None:
            return moved, None
        length = self.reach(rows) * self.spacing.met[rows]
        noise = directions(1, self.x, self.anew) * importance(self.delta[rows])
        return moved + L2.steepest(noise) * per_row(length), length

    def halve(self, rows: Tensor) -> None:
        """One query per row, in the middle between `low` and `high`.

        Where nothing is known below `high`, the query is as far down as the last brackets were,
        and twice as far each time that it succeeds, up to the middle.
        """
        low, high, guess = self.low[rows], self.high[rows], self._guess[rows]
        size = torch.where(low > 0, (low + high) / 2, high * (1 - guess))
        delta, length = self.apart(rows, shrink(self.delta[rows], size, self.norm))
        if length is not None:
            delta = shrink(self._at(rows, delta) - self.x[rows], size, self.norm)
        reached, refused = self.answer(rows, delta, length)
        self.delta[rows[reached]] = delta[reached]
        self.high[rows[reached]] = size[reached]
        self._guess[rows[reached]] = (2 * guess[reached]).clamp(max=0.5)
        failed = ~reached & ~refused
        self.low[rows[failed]] = size[failed]

    def close(self, rows: Tensor, tolerance: float) -> None:
        """Halve until each bracket is narrower than `tolerance` x its size, or the budget ends."""
        every, before, guess = rows, self.high[rows], self._guess[rows]
        while True:
            least = torch.where(self.spacing.met[rows], max(ROUGH, tolerance), tolerance)
            wide = self.high[rows] - self.low[rows] > least * self.high[rows]
            rows = self.left(rows[wide])
            if len(rows) == 0:
                break
            self.halve(rows)
        shorter = 1 - self.high[every] / before.clamp(min=1e-12)
        self._guess[every] = ((guess + shorter) / 2).clamp(tolerance, 0.5)

    def settle(self, rows: Tensor) -> None:
        """With the query kept back, move each row a little further out, if it still succeeds.

        A point on the boundary itself may be judged otherwise in a batch of another size,
        where sums are rounded in another order.
        """
        if self.budget is not None:
            rows = rows[self.spent[rows] < self.budget]
        delta = self.delta[rows] * OUT
        reached = self.ask(rows, delta)
        self.accept(rows[reached], delta[reached])

    def begin(self, rng: torch.Generator, trials: int, starts: Tensor | None) -> Tensor:
        """Rows that have not reached their goal and found a start: the nearest of 32 candidates.

        Each candidate image is pulled to a tenth nearer than the best so far and asked about, one
        query; where it reaches the goal, three more place it on the line to x. A row that has
        none goes on to the last candidate. All rows have the same ones, so that no row's result
        depends on its neighbours; who adapts to a guard, which would know them, draws each row's
        own.

        Args:
            trials: random images to try in all, after those of `starts`.

        Raises:
            InputError: `starts` that are not shaped as the images.
        """
        x = self.x
        if starts is not None and (starts.dim() != 4 or starts.shape[1:] != x.shape[1:]):
            shape = " x ".join(map(str, x.shape[1:]))
            raise InputError(f"starts are images M x {shape}, got {tuple(starts.shape)}")
        rows = torch.arange(len(x), device=x.device)
        rows = rows[~self.ask(rows, torch.zeros_like(x))]
        own = by_row(rng, len(x)) if self.anew is not None else None
        for k, images in enumerate(_candidates(x, trials, rng, starts, own)):
            trying = self.left(rows if k < CANDIDATES else rows[self.high[rows].isinf()])
            if len(trying) == 0:
                break
            delta = images.expand_as(x)[trying] - x[trying]
            near = torch.minimum(self.norm.size(delta), 0.9 * self.high[trying])
            delta = shrink(delta, near, self.norm)
            reached = self.ask(trying, delta)
            fresh = trying[reached]
            self.accept(fresh, delta[reached])
            for _ in range(HALVINGS):
                fresh = self.left(fresh)
                self.halve(fresh)
        return rows[self.high[rows].isfinite()]


def _candidates(
    x: Tensor,
    count: int,
    rng: torch.Generator,
    given: Tensor | None,
    own: Draws | None,
) -> Iterator[Tensor]:
    """The images `given`, then `count` of uniform noise, each (1, C, H, W), or of `own` as x.

    The noise is drawn at each of `SIDES` in turn and enlarged: classifiers stand fine noise
    better than a cast of colour, so that coarse noise is often nearer, and leads elsewhere.
    """
    if given is not None:
        yield from given.to(x)
    stream = child(rng, "start", device=x.device)
    channels, *size = x.shape[1:]
    for k in range(count):
        side = SIDES[k % len(SIDES)]
        shape = (channels, *(length if side is None else min(side, length) for length in size))
        if own is not None:
            noise = own.uniform(math.prod(shape)).view(-1, *shape)
        else:
            noise = torch.rand((1, *shape), generator=stream, device=x.device)
        yield F.interpolate(noise, size=size, mode="bilinear", align_corners=False).to(x)


def shrink(delta: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """Project each row of `delta` (N, C, H, W) on the ball of its own radius (N,), L2 or LINF.

    >>> from mithridate.norms import LINF
    >>> shrink(torch.tensor([[[[3.0, -4.0]]]]), torch.tensor([2.5]), LINF)
    tensor([[[[ 2.5000, -2.5000]]]])
    """
    if norm is L2:
        return delta * per_row((radius / norm.size(delta).clamp(min=1e-12)).clamp(max=1))
    return torch.maximum(torch.minimum(delta, per_row(radius)), -per_row(radius))


def directions(count: int, x: Tensor, rng: torch.Generator, *, smooth: float = 1.0) -> Tensor:
    """Random directions (count, C, H, W): white noise, and `smooth` x as much at half resolution.

    Gradients of image classifiers are smooth, so that the second part finds more of them; the
    first keeps every direction possible.
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
