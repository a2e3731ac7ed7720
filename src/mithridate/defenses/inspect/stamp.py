"""From maps to a trigger: pairs of classes that stand out, and a pattern grown in a window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.defenses.inspect.base import Box
from mithridate.goals import SourceToTarget, Targeted


@dataclass(frozen=True)
class Candidate:
    """A pair of classes whose maps differ from the clean ones, and where they do most."""

    source: int
    target: int
    window: Box
    energy: float


def standardise(shift: Tensor, clean: Tensor) -> Tensor:
    """Shift maps (K, C, H, W) in deviations of the clean models' (M, K, C, H, W).

    The variance of a pixel is pooled over classes and drawn half-way to the mean over pixels:
    M is small, and a pixel that is quiet in M models by chance would otherwise shout.
    """
    variance = clean.var(0).mean(0, keepdim=True) if len(clean) > 1 else shift.new_ones(1)
    if len(clean) == 1:
        variance = (shift - clean[0]).var()
    shrunk = (0.5 * variance + 0.5 * variance.mean()).clamp(min=1e-12)
    return (shift - clean.mean(0)) / shrunk.sqrt()


def shortlist(z: Tensor, *, side: int, classes: int, pairs: int) -> tuple[list[Candidate], Tensor]:
    """The pairs whose standardised maps differ most within one square window.

    A planted trigger pulls the target's map one way and pushes the source's the other, at the
    same place; so the pair's map is the difference of the two. Only the `classes` classes that
    stand out by themselves are paired, so cost grows with classes and not with their square.

    Args:
        z: standardised shifts (K, C, H, W).
        side: of the window, in pixels.

    Returns:
        Both directions of the best `pairs` pairs, and the energies (K, K), NaN where not looked.
    """
    number, _, height, width = z.shape
    alone = _windowed(z, side).flatten(1).amax(1)
    kept = alone.argsort(descending=True)[:classes].sort().values
    energies = torch.full((number, number), torch.nan)
    found: list[Candidate] = []
    for i, first in enumerate(kept.tolist()):
        rest = kept[i + 1 :]
        if len(rest) == 0:
            break
        maps = _windowed(z[rest] - z[first], side)
        best, place = maps.flatten(1).max(1)
        for second, energy, at in zip(rest.tolist(), best.tolist(), place.tolist(), strict=True):
            top, left = divmod(at, maps.shape[-1])
            box = (top, left, min(top + side, height), min(left + side, width))
            energies[first, second] = energies[second, first] = energy
            found.append(Candidate(first, second, box, energy))
    found.sort(key=lambda c: -c.energy)
    both = [
        Candidate(s, t, c.window, c.energy)
        for c in found[:pairs]
        for s, t in ((c.source, c.target), (c.target, c.source))
    ]
    return both, energies


def _windowed(z: Tensor, side: int) -> Tensor:
    """Mean square in every window, (K, H', W')."""
    return F.avg_pool2d(z.square().mean(1, keepdim=True), side, 1)[:, 0]


def grow(
    model: Classifier, images: Tensor, source: int, target: int, box: Box, *, eps: float, steps: int
) -> Tensor:
    """One pattern for all images: Algorithm II confined to a box, its gradient averaged.

    x <- clip(x - eps sign mean grad (J(x, target) - J(x, source))) inside the box; then the
    average image. Returns (C, H, W), NaN outside the box.
    """
    inside = box_mask(box, images.shape[1:]).to(images.device)
    full = torch.full((len(images),), source, device=images.device)
    goal = SourceToTarget(full, torch.full_like(full, target))
    x = images
    for _ in range(steps):
        gradient, _ = model.gradient(x, goal)
        x = (x - eps * gradient.mean(0, keepdim=True).sign() * inside).clamp(0, 1)
    return torch.where(inside, x.mean(0), torch.nan)


def box_mask(box: Box, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Bool (C, H, W), true inside the box."""
    mask = torch.zeros(tuple(shape), dtype=torch.bool)
    mask[:, box[0] : box[2], box[1] : box[3]] = True
    return mask


def stamp(images: Tensor, pattern: Tensor) -> Tensor:
    """Images with the pattern (NaN: transparent) laid over."""
    return torch.where(pattern.isnan(), images, pattern.nan_to_num())


def lead(model: Classifier, images: Tensor, target: int) -> Tensor:
    """Logits by which the target leads the best other class, (N,)."""
    with torch.no_grad():
        logits = model.logits(images)
    goal = Targeted(torch.full((len(images),), target, device=images.device))
    return -goal.margin(logits)


def dilate(box: Box, by: int, height: int, width: int) -> Box:
    """The box with a margin, cut at the image's edge."""
    return (
        max(0, box[0] - by), max(0, box[1] - by), min(height, box[2] + by), min(width, box[3] + by)
    )  # fmt: skip
