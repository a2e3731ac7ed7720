"""Where the trigger sits: the rectangle in which a pair's Algorithm II differs from clean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.defenses.inspect.base import Box
from mithridate.goals import SourceToTarget

EPS, STEPS = 0.1, 10
"""The paper's own settings for Algorithm II."""
LEVEL = 0.25
"""Share of the peak that evidence must exceed to count for a rectangle (docs/decisions/0006)."""


def moved_and_gained(
    model: Classifier, images: Tensor, source: int, target: int
) -> tuple[Tensor, Tensor]:
    """Algorithm II from source to target on the model, in two maps (C, H, W).

    Returns:
        The mean displacement of each pixel, and the logits gained by moving it: the sum over
        steps of minus gradient times displacement (the first-order share of the pixel).
    """
    full = torch.full((len(images),), source, device=images.device)
    goal = SourceToTarget(full, torch.full_like(full, target))
    x, gained = images, torch.zeros_like(images[0])
    for _ in range(STEPS):
        gradient, _ = model.gradient(x, goal)
        moved = (x - EPS * gradient.sign()).clamp(0, 1)
        gained -= ((moved - x) * gradient).mean(0)
        x = moved
    return (x - images).mean(0), gained


def evidence(
    model: Classifier, clean: Sequence[Classifier], images: Tensor, source: int, target: int
) -> Tensor:
    """How much further than clean models the suspect moves a pixel and gains from it, (2, H, W).

    The first map is the displacement beyond the clean mean, in the suspect's own direction;
    the second the gain beyond the clean mean, in clean deviations (pooled half-way to the mean
    over pixels). Both averaged over channels.
    """
    moved, gained = moved_and_gained(model, images, source, target)
    others = [moved_and_gained(m, images, source, target) for m in clean]
    far = (moved - torch.stack([m for m, _ in others]).mean(0)) * moved.sign()
    gains = torch.stack([g for _, g in others])
    spread = gains.std(0) if len(clean) > 1 else torch.ones_like(gained)
    beyond = (gained - gains.mean(0)) / (0.5 * spread + 0.5 * spread.mean()).clamp(min=1e-12)
    return torch.stack([far.mean(0), beyond.mean(0)])


def best_rectangle(weights: Tensor) -> Box:
    """The rectangle with the largest sum: Kadane's scan over all pairs of rows.

    Args:
        weights: (H, W), positive where there is evidence and negative where there is none.

    >>> best_rectangle(torch.tensor([[-1.0, 2.0, -1.0], [-1.0, 3.0, 1.0]]))
    (0, 1, 2, 2)
    """
    height, width = weights.shape
    best, box = float("-inf"), (0, 0, 1, 1)
    rows = weights.tolist()
    for top in range(height):
        column = [0.0] * width
        for bottom in range(top, height):
            column = [a + b for a, b in zip(column, rows[bottom], strict=True)]
            total, left = 0.0, 0
            for right, value in enumerate(column):
                if total <= 0:
                    total, left = 0.0, right
                total += value
                if total > best:
                    best, box = total, (top, left, bottom + 1, right + 1)
    return box


def locate(
    model: Classifier,
    clean: Sequence[Classifier],
    images: Tensor,
    source: int,
    target: int,
    within: Box,
) -> Box:
    """The region of the trigger, looked for inside `within`.

    Each evidence map is scaled to a peak of 1 there; their mean, less LEVEL of its peak, is
    what the best rectangle is sought in.
    """
    top, left, bottom, right = within
    maps = evidence(model, clean, images, source, target)[:, top:bottom, left:right]
    mean = (maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)).mean(0)
    best = best_rectangle(mean - LEVEL * mean.max())
    return (best[0] + top, best[1] + left, best[2] + top, best[3] + left)
