"""JSMA: change, two at a time, the values that the saliency map ranks highest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import MinimalAttack, crossed, limits
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.errors import InputError
from mithridate.goals import Goal, Rows


@dataclass(frozen=True)
class Together:
    """The log-sum-exp of some of a row's logits, those of `classes`: bool (N, K)."""

    classes: Tensor

    def loss(self, logits: Tensor) -> Tensor:
        return logits.masked_fill(~self.classes, float("-inf")).logsumexp(1)

    def __getitem__(self, rows: Rows) -> Together:
        return Together(self.classes[rows])


def best_pair(gain: Tensor, loss: Tensor, free: Tensor, candidates: int | None) -> Tensor:
    """The pair (p, q) of the largest -(gain_p + gain_q) * (loss_p + loss_q), gain > 0 > loss.

    Args:
        gain: slope of what should rise, (N, D).
        loss: slope of what should fall, (N, D).
        free: bool (N, D), values that may be used.
        candidates: values among which pairs are formed; None for all, D * D numbers a row.

    Returns:
        Indices (N, 2); -1 where no pair helps.

    >>> gain, loss = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[1.0, -2.0, -1.0]])
    >>> best_pair(gain, loss, torch.ones(1, 3, dtype=torch.bool), None).sort().values
    tensor([[1, 2]])
    """
    highest = [v.abs().amax(1, keepdim=True).clamp(min=1e-12) for v in (gain, loss)]
    promise = (gain / highest[0] - loss / highest[1]).masked_fill(~free, float("-inf"))
    top = promise.topk(min(candidates or gain.shape[1], gain.shape[1]), 1).indices
    up, down, usable = gain.gather(1, top), loss.gather(1, top), free.gather(1, top)
    rise, fall = up[:, :, None] + up[:, None], down[:, :, None] + down[:, None]
    helps = (rise > 0) & (fall < 0) & usable[:, :, None] & usable[:, None]
    helps &= ~torch.eye(top.shape[1], dtype=torch.bool, device=gain.device)
    score = torch.where(helps, -rise * fall, 0).flatten(1)
    highest_score, place = score.max(1)
    pair = torch.stack([place // top.shape[1], place % top.shape[1]], 1)
    return torch.where(highest_score[:, None] > 0, top.gather(1, pair), -1)


@dataclass(frozen=True, kw_only=True)
class JSMA(MinimalAttack):
    """Jacobian-based saliency map over pairs of values (Papernot et al. 2016, algorithm 3).

    A pair is chosen by the slopes of what should rise (alpha, the target) and of what should
    fall (beta, the other classes), with the largest -alpha * beta; both its values move by theta.

    Deviations: slopes are taken of logits, since those of probabilities sum to 0, which makes
    beta -alpha; and beta is of the log-sum-exp of the other logits, not of their sum: it looks
    at the classes in the way, not at all alike (on 32 MNIST images, 39 values for
    97 % of the targets; with the sum, 57 for 66 %). An untargeted goal is the same with every
    other class wanted and the true one in the way. Pairs are formed among the `candidates` that
    promise most alone, as all pairs are D * D numbers per image; None takes all, as published.
    A row without a helpful pair is given up, and comes back as it was.

    Args:
        theta: change per step, in [-1, 1] and not 0; below 0, values only fall.
        gamma: largest share of the values to change, in (0, 1].
        candidates: at least 2; None for all.

    Raises:
        InputError: a value out of range.

    >>> from mithridate.goals import Untargeted
    >>> from mithridate.testing.models import linear_model
    >>> model, x = linear_model(), torch.full((1, 1, 4, 4), 0.51)
    >>> goal = Untargeted(model.labels(x))
    >>> near = JSMA().perturb(model, x, goal, rng=torch.Generator())
    >>> goal.reached(model.labels(near)), int((near != x).sum())
    (tensor([True]), 2)
    """

    about: ClassVar[About] = About(
        paper="Papernot et al. 2016, algorithm 3",
        kind="minimal",
        norms=("l0",),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    theta: Annotated[float, limits(-1, 1)] = 1.0
    gamma: Annotated[float, limits(0, 1, open_low=True)] = 0.145
    candidates: Annotated[int, limits(2)] | None = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.theta == 0:
            raise InputError("theta must not be 0: nothing would change; give 1 or -1")

    def cost(self, sizes: Sizes) -> Work:
        """About: for 28 x 28 values, as the sizes do not tell."""
        return Work(gradients=sizes.test * (2 * self._pairs(28 * 28) + 1))

    def _pairs(self, values: int) -> int:
        """How many may change, of so many values."""
        return max(1, int(self.gamma * values / (2 * abs(self.theta))))

    def held(self, n: int, values: int) -> int:
        return (20 * values + 8 * min(self.candidates or values, values) ** 2) * n

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        out, point = x.detach().clone(), x.detach().flatten(1)
        if len(x) == 0:
            return out
        rows, size = torch.arange(len(x), device=x.device), point.shape[1]
        classes = torch.arange(model.classes, device=x.device)
        wins = goal.reached(classes[:, None]).T
        sign, bound = (1, 1.0) if self.theta > 0 else (-1, 0.0)
        budget = self._pairs(size)
        with model.frozen():
            for i in range(budget + 1):
                images = point.view(-1, *x.shape[1:])
                gain, logits = model.gradient(images, Together(wins))
                done = crossed(goal, logits) if i else goal.reached(logits.argmax(1))
                out[rows[done]] = images[done]
                if i == budget:
                    break
                loss, _ = model.gradient(images, Together(~wins))
                pair = best_pair(
                    sign * gain.flatten(1), sign * loss.flatten(1), point != bound, self.candidates
                )
                left = (~done & (pair[:, 0] >= 0)).nonzero()[:, 0]
                if len(left) == 0:
                    break
                rows, wins, goal, pair = rows[left], wins[left], goal[left], pair[left]
                moved = (point[left].gather(1, pair) + self.theta).clamp(0, 1)
                point = point[left].scatter(1, pair, moved)
        return out
