"""Carlini and Wagner's attacks in L2, L0 and LINF: one tanh-boxed Adam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import (
    Count,
    Fraction,
    Nonnegative,
    Positive,
    RowSearch,
    crossed,
    per_row,
)
from mithridate.attacks.losses import OfGoal
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.errors import check_number
from mithridate.goals import Goal
from mithridate.norms import L2, LINF, Norm

INSIDE = 0.999
"""Pixels begin this far out on (-1, 1), where tanh still moves: at 1 its slope is 0."""
HALVINGS = 8
"""Looks at the last line to x in LINF: the answer is exact along it within 1 part in 256."""

Penalty = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Change (N, C, H, W), row numbers (N,) -> what the change costs (N,), and its gradient."""


@dataclass(frozen=True)
class Hinge(OfGoal):
    """f of section V: the margin still missing to the goal and `confidence` beyond, or 0."""

    confidence: float

    def loss(self, logits: Tensor) -> Tensor:
        return (self.goal.margin(logits) + self.confidence).clamp(min=0)


def squared(delta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The L2 penalty: `|delta|^2`, and its gradient."""
    return delta.flatten(1).square().sum(1), 2 * delta


class BoxAdam(RowSearch):
    """Adam over w, where a pixel is (tanh w + 1) / 2."""

    copies: ClassVar[int] = 28
    steps: int
    step_size: float
    c: float
    confidence: float

    def minimise(
        self,
        model: Classifier,
        x: Tensor,
        goal: Goal,
        c: Tensor,
        *,
        norm: Norm = L2,
        penalty: Penalty = squared,
        step_size: float | Tensor | None = None,
        free: Tensor | None = None,
        start: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Minimise penalty + c * hinge.

        A row leaves when its objective is 0, or has not fallen by 0.01 % in a tenth of the steps.

        Args:
            x: images (N, C, H, W) in [0, 1].
            c: weight of the hinge, (N,).
            norm: measures the distance whose smallest is kept.
            step_size: of Adam on w, for all rows or each, (N,); None for the attack's own.
            free: bool (N, C, H, W), pixels that may move; None for all.
            start: where to begin, x if None.

        Returns:
            The nearest adversarial images met, and their distances (N,): infinite for none, then
            the image is x.
        """
        step_size = self.step_size if step_size is None else step_size
        best, least = x.clone(), x.new_full((len(x),), float("inf"))
        rows, every = torch.arange(len(x), device=x.device), max(1, self.steps // 10)
        w = torch.atanh((2 * (x if start is None else start) - 1) * INSIDE)
        mean, square, before = torch.zeros_like(w), torch.zeros_like(w), least.clone()
        free = torch.ones_like(x, dtype=torch.bool) if free is None else free
        pace = per_row(torch.as_tensor(step_size).to(x).expand(len(x)))
        for i in range(self.steps):
            squashed = torch.tanh(w)
            point = torch.where(free, (squashed + 1) / 2, x)
            pull, logits = model.gradient(point, Hinge(goal, self.confidence))
            missing, distance = goal.margin(logits) + self.confidence, norm.distance(point, x)
            better = crossed(goal, logits, self.confidence) & (distance < least[rows])
            best[rows[better]], least[rows[better]] = point[better], distance[better]

            cost, slope = penalty(point - x, rows)
            objective = cost + c * missing.clamp(min=0)
            going = objective > 0
            if i % every == 0:
                going, before = going & (objective <= 0.9999 * before), objective
            gradient = (slope + per_row(c) * pull) * (1 - squashed**2) / 2
            gradient = torch.where(free, gradient, 0)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            scale = (square / (1 - 0.999 ** (i + 1))).sqrt() + 1e-8
            w = w - pace[rows] * mean / (1 - 0.9 ** (i + 1)) / scale

            left = going.nonzero()[:, 0]
            if len(left) < len(rows):
                kept = (rows, x, c, w, mean, square, before, free)
                rows, x, c, w, mean, square, before, free = (value[left] for value in kept)
                goal = goal[left]
            if len(rows) == 0:
                break
        return best, least


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(BoxAdam):
    """Smallest L2 change by Adam, with a binary search over c (Carlini & Wagner 2017, VI.A).

    Minimises `|x' - x|^2 + c * max(margin + confidence, 0)`, `x' = (tanh w + 1) / 2`.

    Deviations: x is drawn in by 0.1 % before the change of variables (`INSIDE`), and the step
    is 0.05, not 0.01: with the authors' 1 - 1e-6, a pixel that is exactly 0 or 1 starts at
    `|w| = 7.3` and hardly moves in 200 steps. After the first round, steps are no longer than the
    change found so far, on average over the pixels: with a fixed length, changes of large images
    end where the steps are as long as they. c starts at 1 and is searched 5 times (0.001 and 9
    in the authors' code). An image leaves a round when it stalls, alone and not with its
    batch; a row that had reached its goal is left as it is, whatever its confidence.

    Args:
        steps: Adam steps per value of c at most, at least 1.
        search_steps: values of c to try, at least 1.
        step_size: of Adam, on w, at most, above 0.
        c: first weight of the hinge, above 0; x 10 while it fails, then halfway.
        confidence: logits beyond the boundary, at least 0.

    Raises:
        InputError: a value out of range.

    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.6, 0.5]]]]), torch.Generator()
    >>> near = CarliniWagner().perturb(model, x, Untargeted([0]), rng=rng)
    >>> round(L2.distance(near, x).item(), 2)  # the nearest point is at 0.1 / sqrt(2)
    0.07
    """

    about: ClassVar[About] = About(
        paper="Carlini and Wagner 2017, section VI.A",
        kind="minimal",
        norms=("l2",),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    steps: Count = 200
    search_steps: Count = 5
    step_size: Positive = 0.05
    c: Positive = 1.0
    confidence: Nonnegative = 0.0

    def cost(self, sizes: Sizes) -> Work:
        return Work(gradients=sizes.test * self.steps * self.search_steps)

    def search(self, model: Classifier, x: Tensor, goal: Goal) -> Tensor:
        best, least = x.clone(), x.new_full((len(x),), float("inf"))
        low, high, c = torch.zeros_like(least), least.clone(), torch.full_like(least, self.c)
        for _ in range(self.search_steps):
            # No longer a step than the change itself, on average over the pixels.
            pace = (least / x[0].numel() ** 0.5).clamp(max=self.step_size)
            near, distance = self.minimise(model, x, goal, c, step_size=pace)
            nearer = distance < least
            best[nearer], least = near[nearer], torch.minimum(distance, least)
            won = distance.isfinite()
            low, high = torch.where(won, low, c), torch.where(won, c, high)
            c = torch.where(high.isinf(), 10 * low, (low + high) / 2)
        return best


@dataclass(frozen=True, kw_only=True)
class CarliniWagnerL0(BoxAdam):
    """Fewest changed values, by fixing those that matter least (Carlini & Wagner 2017, VI.B).

    The L2 attack runs on the values still free, from the last solution; then those of the
    smallest `|gradient of the hinge * change|` are put back and fixed, and so on until it fails.

    Deviations: a share of the free values is fixed at once, not one; a row that fails takes
    them back, halves the share and multiplies c by 10 (up to `largest_c`), and is done when a
    single value cannot be spared. A value is one channel of a pixel, as `norms.L0` counts (the
    authors' code counts pixels). Others as `CarliniWagner`.

    Args:
        steps: Adam steps a round at most, at least 1.
        rounds: fixings to try, at least 1.
        step_size: of Adam, on w, above 0.
        c: first weight of the hinge, above 0.
        largest_c: at least c.
        share: of the free values, fixed in a round at first, in (0, 1).
        confidence: logits beyond the boundary, at least 0.

    Raises:
        InputError: a value out of range.

    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.6, 0.5]]]]), torch.Generator()
    >>> near = CarliniWagnerL0().perturb(model, x, Untargeted([0]), rng=rng)
    >>> int((near != x).sum())
    1
    """

    about: ClassVar[About] = About(
        paper="Carlini and Wagner 2017, section VI.B",
        kind="minimal",
        norms=("l0",),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    steps: Count = 100
    rounds: Count = 40
    step_size: Positive = 0.05
    c: Positive = 1.0
    largest_c: float = 1000.0
    share: Fraction = 0.3
    confidence: Nonnegative = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("largest_c", self.largest_c, low=self.c)

    def cost(self, sizes: Sizes) -> Work:
        return Work(gradients=sizes.test * (self.steps + 1) * self.rounds)

    def search(self, model: Classifier, x: Tensor, goal: Goal) -> Tensor:
        """Per row: `free` values of this round, and the best image, which changes some of them."""
        best, free = x.clone(), torch.ones_like(x, dtype=torch.bool)
        c, share = x.new_full((len(x),), self.c), x.new_full((len(x),), self.share)
        here = torch.arange(len(x), device=x.device)
        for _ in range(self.rounds):
            near, distance = self.minimise(
                model, x[here], goal[here], c[here], free=free[here], start=best[here]
            )
            won = distance.isfinite()
            best[here[won]] = near[won]
            failed = here[~won]
            changed = (best[failed] != x[failed]).flatten(1).sum(1)
            stuck = (share[failed] * changed < 1) & (c[failed] >= self.largest_c)
            share[failed] /= 2
            c[failed] = (10 * c[failed]).clamp(max=self.largest_c)
            here = torch.cat([here[won], failed[~stuck]])
            if len(here) == 0:
                break
            free[here] = _thinner(model, best[here], x[here], goal[here], share[here])
        return best


def _thinner(model: Classifier, near: Tensor, x: Tensor, goal: Goal, share: Tensor) -> Tensor:
    """The values changed so far less those that gained least: bool (N, C, H, W)."""
    if not len(near):
        return torch.ones_like(x, dtype=torch.bool)
    change = near - x
    # Past the boundary the hinge is flat; so much confidence keeps its slope.
    gradient, _ = model.gradient(near, Hinge(goal, 1e9))
    gain = (-gradient * change).masked_fill(change == 0, float("-inf")).flatten(1)
    held = (change != 0).flatten(1).sum(1)
    count = (share * held).long().clamp(min=1)
    rank = gain.argsort(1).argsort(1) - (gain.shape[1] - held)[:, None]
    return (rank >= count[:, None]).view_as(x)


@dataclass(frozen=True, kw_only=True)
class CarliniWagnerLinf(BoxAdam):
    """Smallest LINF change under a falling ceiling tau (Carlini & Wagner 2017, VI.C).

    Minimises `c * max(margin + confidence, 0) + sum_i max(|x'_i - x_i| - tau, 0)` from the last
    solution. A row that crosses below its ceiling lowers it to `decay` times the largest change
    that it needed; one that fails doubles its c, and is done when c passes `largest_c`.

    Deviations: those of `CarliniWagner`; c is doubled between rounds, where the paper runs
    several c in a round, and tau and c are each row's own, so that all rows share the passes.
    Adam's steps shrink with the ceiling, or the last ones would be longer than what is left.
    The last solution is drawn back along its line to x as far as it holds (8 forward passes):
    ceilings a tenth apart leave room there.

    Args:
        steps: Adam steps a round at most, at least 1.
        rounds: ceilings and weights to try, at least 1.
        step_size: of Adam, on w, above 0; times the ceiling.
        c: first weight of the hinge, above 0.
        largest_c: at least c.
        decay: of the ceiling, in (0, 1).
        confidence: logits beyond the boundary, at least 0.

    Raises:
        InputError: a value out of range.

    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.6, 0.5]]]]), torch.Generator()
    >>> near = CarliniWagnerLinf().perturb(model, x, Untargeted([0]), rng=rng)
    >>> bool(LINF.distance(near, x) < 0.055)  # the nearest point is at 0.05
    True
    """

    about: ClassVar[About] = About(
        paper="Carlini and Wagner 2017, section VI.C",
        kind="minimal",
        norms=("linf",),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    steps: Count = 100
    rounds: Count = 30
    step_size: Positive = 0.05
    c: Positive = 1.0
    largest_c: float = 20.0
    decay: Fraction = 0.9
    confidence: Nonnegative = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("largest_c", self.largest_c, low=self.c)

    def cost(self, sizes: Sizes) -> Work:
        n = sizes.test
        return Work(forwards=n * HALVINGS, gradients=n * self.steps * self.rounds)

    def search(self, model: Classifier, x: Tensor, goal: Goal) -> Tensor:
        out, least = x.clone(), x.new_full((len(x),), float("inf"))
        tau, c = torch.ones_like(least), torch.full_like(least, self.c)
        here = torch.arange(len(x), device=x.device)
        for _ in range(self.rounds):
            if len(here) == 0:
                break
            near, distance = self.minimise(
                model,
                x[here],
                goal[here],
                c[here],
                norm=LINF,
                penalty=_above(tau[here]),
                step_size=self.step_size * tau[here],
                start=out[here],
            )
            nearer = distance < least[here]
            out[here[nearer]], least[here[nearer]] = near[nearer], distance[nearer]
            tau[here] = torch.where(nearer, self.decay * distance, tau[here])
            c[here] = torch.where(nearer, c[here], 2 * c[here])
            here = here[(c[here] <= self.largest_c).nonzero()[:, 0]]
        return self._drawn_back(model, x, out, goal)

    def _drawn_back(self, model: Classifier, x: Tensor, near: Tensor, goal: Goal) -> Tensor:
        """The nearest adversarial point seen on the line from x to what was found, by bisection."""
        low, high = x.new_zeros((len(x), 1, 1, 1)), x.new_ones((len(x), 1, 1, 1))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            with torch.no_grad():
                logits = model.logits(x + middle * (near - x))
            holds = per_row(crossed(goal, logits, self.confidence))
            low, high = torch.where(holds, low, middle), torch.where(holds, middle, high)
        return torch.where(high < 1, x + high * (near - x), near)


def _above(tau: Tensor) -> Penalty:
    """What lies above the ceilings tau, (N,)."""

    def penalty(delta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        over = (delta.abs() - per_row(tau[rows])).clamp(min=0)
        return over.flatten(1).sum(1), torch.where(over > 0, delta.sign(), 0)

    return penalty
