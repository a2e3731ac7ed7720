"""Carlini and Wagner in L2, and the tanh-boxed Adam that their L0 and LINF forms share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import MinimalAttack, crossed, where_needed
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.errors import check_number
from mithridate.goals import Goal, Rows
from mithridate.norms import L2, Norm

INSIDE = 0.999
"""Pixels begin this far out on (-1, 1), where tanh still moves: at 1 its slope is 0."""

Penalty = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Change (N, C, H, W), row numbers (N,) -> what the change costs (N,), and its gradient."""


@dataclass(frozen=True)
class Hinge:
    """f of section V: the margin still missing to the goal and `confidence` beyond, or 0."""

    goal: Goal
    confidence: float

    def loss(self, logits: Tensor) -> Tensor:
        return (self.goal.margin(logits) + self.confidence).clamp(min=0)

    def __getitem__(self, rows: Rows) -> Hinge:
        return Hinge(self.goal[rows], self.confidence)


def box_adam(
    model: Classifier,
    x: Tensor,
    goal: Goal,
    c: Tensor,
    *,
    norm: Norm,
    penalty: Penalty,
    steps: int,
    step_size: float | Tensor,
    confidence: float,
    free: Tensor | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Minimise penalty + c * hinge by Adam over w, where a pixel is (tanh w + 1) / 2.

    A row leaves when its objective is 0, or has not fallen by 0.01 % in a tenth of the steps.

    Args:
        x: images (N, C, H, W) in [0, 1].
        c: weight of the hinge, (N,).
        norm: measures the distance whose smallest is kept.
        free: bool (N, C, H, W), pixels that may move; None for all.
        step_size: of Adam on w, for all rows or each, (N,).
        start: where to begin, x if None.

    Returns:
        The nearest adversarial images met, and their distances (N,): infinite for none, then
        the image is x.
    """
    best, least = x.clone(), x.new_full((len(x),), float("inf"))
    rows, every = torch.arange(len(x), device=x.device), max(1, steps // 10)
    w = torch.atanh((2 * (x if start is None else start) - 1) * INSIDE)
    mean, square, before = torch.zeros_like(w), torch.zeros_like(w), least.clone()
    free = torch.ones_like(x, dtype=torch.bool) if free is None else free
    pace = torch.as_tensor(step_size).to(x).expand(len(x))[:, None, None, None]
    for i in range(steps):
        squashed = torch.tanh(w)
        point = torch.where(free, (squashed + 1) / 2, x)
        pull, logits = model.gradient(point, Hinge(goal, confidence))
        missing, distance = goal.margin(logits) + confidence, norm.distance(point, x)
        better = crossed(goal, logits, confidence) & (distance < least[rows])
        best[rows[better]], least[rows[better]] = point[better], distance[better]

        cost, slope = penalty(point - x, rows)
        objective = cost + c * missing.clamp(min=0)
        going = objective > 0
        if i % every == 0:
            going, before = going & (objective <= 0.9999 * before), objective
        gradient = (slope + c[:, None, None, None] * pull) * (1 - squashed**2) / 2
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


def check_adam(steps: int, step_size: float, c: float, confidence: float) -> None:
    """Refuse settings that `box_adam` cannot use.

    Raises:
        InputError: a value out of range.

    >>> check_adam(200, 0.05, 1.0, 0.0)
    """
    check_number("steps", steps, low=1)
    check_number("step_size", step_size, low=0, open_low=True)
    check_number("c", c, low=0, open_low=True)
    check_number("confidence", confidence, low=0)


def squared(delta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The L2 penalty: `|delta|^2`, and its gradient."""
    return delta.flatten(1).square().sum(1), 2 * delta


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(MinimalAttack):
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

    steps: int = 200
    search_steps: int = 5
    step_size: float = 0.05
    c: float = 1.0
    confidence: float = 0.0

    def __post_init__(self) -> None:
        check_adam(self.steps, self.step_size, self.c, self.confidence)
        check_number("search_steps", self.search_steps, low=1)

    def cost(self, sizes: Sizes) -> Work:
        return Work(gradients=sizes.test * self.steps * self.search_steps)

    def held(self, n: int, values: int) -> int:
        return 28 * n * values

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        return where_needed(model, x, goal, self._search)

    def _search(self, model: Classifier, x: Tensor, goal: Goal) -> Tensor:
        best, least = x.clone(), x.new_full((len(x),), float("inf"))
        low, high, c = torch.zeros_like(least), least.clone(), torch.full_like(least, self.c)
        for _ in range(self.search_steps):
            # No longer a step than the change itself, on average over the pixels.
            pace = (least / x[0].numel() ** 0.5).clamp(max=self.step_size)
            near, distance = box_adam(
                model,
                x,
                goal,
                c,
                norm=L2,
                penalty=squared,
                steps=self.steps,
                step_size=pace,
                confidence=self.confidence,
            )
            nearer = distance < least
            best[nearer], least = near[nearer], torch.minimum(distance, least)
            won = distance.isfinite()
            low, high = torch.where(won, low, c), torch.where(won, c, high)
            c = torch.where(high.isinf(), 10 * low, (low + high) / 2)
        return best
