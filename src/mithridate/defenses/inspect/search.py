"""From maps to a trigger: pairs of classes that stand out, and the stamp that fools the suspect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import Box, Halves, stamp
from mithridate.defenses.inspect.locate import locate
from mithridate.goals import SourceToTarget, Targeted

if TYPE_CHECKING:  # whose settings the search reads
    from mithridate.defenses.inspect.bias_maps import BiasMaps


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
    candidates: list[Candidate] = []
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
            candidates.append(Candidate(first, second, box, energy))
    candidates.sort(key=lambda c: -c.energy)
    both = [
        Candidate(s, t, c.window, c.energy)
        for c in candidates[:pairs]
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


@dataclass(frozen=True)
class Finding:
    """A pair of classes, the pattern grown for it, and what the pattern does.

    `excess` is the statistic: logits by which the target leads on stamped held-out source
    images, in the suspect beyond the mean of the clean models.
    """

    pair: Candidate
    pattern: Tensor
    excess: float


class Search:
    """One model against the clean ones: the best stamp that fools it and leaves them alone."""

    def __init__(self, data: ImageSet, halves: Halves, plan: BiasMaps) -> None:
        self.data = data
        self.halves = halves
        self.plan = plan
        height, width = data.image_shape[1:]
        self.side = max(2, min(height, width, math.ceil(plan.window * min(height, width))))

    def images(self, label: int, confirm: bool, device: torch.device, times: int = 1) -> Tensor:
        """Source images of one half, at most `times * plan.images`."""
        rows = (self.halves.confirm if confirm else self.halves.search)[label]
        return self.data.batch(rows[: times * self.plan.images])[0].to(device)

    def shortlist(self, shift: Tensor, clean: Tensor) -> tuple[list[Candidate], Tensor]:
        """The pairs to try, and the energies of all that were looked at (see `shortlist`)."""
        z = standardise(shift, clean)
        return shortlist(z, side=self.side, classes=self.plan.classes, pairs=self.plan.pairs)

    def run(
        self, model: Classifier, candidates: Sequence[Candidate], clean: Sequence[Classifier]
    ) -> list[Finding]:
        """A pattern for each candidate, the one with the largest excess first."""
        findings = []
        for pair in candidates:
            pattern = self._grow(model, pair, pair.window)
            suspect, others = self._leads(model, clean, pair.source, pair.target, pattern)
            findings.append(Finding(pair, pattern, suspect - others))
        return sorted(findings, key=lambda f: -f.excess)

    def _grow(self, model: Classifier, pair: Candidate, box: Box) -> Tensor:
        images = self.images(pair.source, False, model.device)
        eps, steps = self.plan.grow_eps, self.plan.grow_steps
        return grow(model, images, pair.source, pair.target, box, eps=eps, steps=steps)

    def _leads(
        self,
        model: Classifier,
        clean: Sequence[Classifier],
        source: int,
        target: int,
        pattern: Tensor,
    ) -> tuple[float, float]:
        """Mean lead of the target on stamped held-out images: suspect's, and clean models'."""
        stamped = stamp(self.images(source, True, model.device), pattern)
        leads = [float(lead(m, stamped, target).mean()) for m in (model, *clean)]
        return leads[0], sum(leads[1:]) / len(clean)

    def name_source(
        self, model: Classifier, pair: Candidate, clean: Sequence[Classifier]
    ) -> Candidate:
        """The pair with the source that its pattern takes to the target best.

        A planted trigger also works on other classes, and where clean models are far from
        the target the excess is large by itself. So each class is stamped with the pattern
        and scored by the suspect's own lead plus its excess; the statistic stays as it was.
        """
        _, pattern = self.locate(model, pair, clean)
        sources = [s for s in range(self.data.classes) if s != pair.target]

        def score(source: int) -> float:
            suspect, others = self._leads(model, clean, source, pair.target, pattern)
            return suspect + (suspect - others)

        return replace(pair, source=max(sources, key=score))

    def locate(
        self, model: Classifier, pair: Candidate, clean: Sequence[Classifier]
    ) -> tuple[Box, Tensor]:
        """The region of the trigger, and the pattern grown in it.

        The window is widened by half its side, since it need not hold all of the trigger.
        """
        height, width = self.data.image_shape[1:]
        wide = dilate(pair.window, max(1, self.side // 2), height, width)
        images = self.images(pair.source, False, model.device, times=2)
        region = locate(model, clean, images, pair.source, pair.target, wide)
        return region, self._grow(model, pair, region)
