"""Universal perturbation: how small a change sends all images of a class to another?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import (
    Added,
    Comparison,
    Evidence,
    Halves,
    Inspector,
    Look,
    MarginOf,
    Progress,
    apart,
    check_gradients,
    evidence_of_pairs,
    margins,
    pair_table,
)
from mithridate.errors import check_number

FACTOR = 1.2
"""By which a size falls and rises."""


@final
@dataclass(frozen=True, kw_only=True)
class UniversalPerturbation(Inspector):
    """For each pair of classes the smallest change that sends images of the one to the other.

    A backdoor is a small change that works on every image alike. For each (source, target) the
    smallest change that sends `success` of the source's images to the target is searched by
    gradient ascent on the margin (the target's logit less the largest other), its size falling
    while it works and rising while it does not, as DDN's (Rony et al. 2019).

    What counts is by how much a pair is nearer than the distance between the classes' own images
    would have it, within this model alone, in deviations of all pairs (`near`). Of this table
    there are three scores, for the three forms of a backdoor (`metrics.outliers.forms`). The
    statistic is by how many median absolute deviations the nearest pair, or the nearest target,
    is too near.

    Universal perturbations are Moosavi-Dezfooli et al.'s (2017), the search by pairs is that of
    K-Arm (Shen et al. 2021); the scores are the project's.

    Args:
        size: of the change at which the search begins: root mean square of all its values.
        steps: of the search.
        images: of each class that a change is grown on.
        pairs: that are searched at most; where there are more, those with the steepest slope.
        success: share of the images that a common change is to send to the target.
        controls, control_epochs, alpha: as of every `Inspector`.

    Raises:
        InputError: a setting out of range.

    >>> UniversalPerturbation(steps=5).steps
    5
    """

    about: ClassVar[About] = About(
        paper="Moosavi-Dezfooli et al. 2017; Shen et al. 2021",
        access=("gradient",),
        needs=("clean images",),
        atlas=("AML.M0008",),
        nist=("023",),
    )
    statistic: ClassVar[str] = "Deviations by which the nearest pair or target is too near"

    size: float = 0.054
    steps: int = 14
    images: int = 6
    pairs: int = 90
    success: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("size", self.size, low=0, high=1, open_low=True)
        for name in ("steps", "images", "pairs"):
            check_number(name, getattr(self, name), low=1)
        check_number("success", self.success, low=0, high=1, open_low=True)

    def cost(self, sizes: Sizes) -> Work:
        """Every pair's images at each step."""
        number = min(self.pairs, sizes.classes * (sizes.classes - 1))
        each = min(self.images, max(1, sizes.test // (2 * sizes.classes)))
        passes = number * each * (self.steps + 1)
        return Work(forwards=passes, gradients=passes)

    def look_cost(self, sizes: Sizes) -> Work:
        """All of it."""
        return self.cost(sizes)

    def look(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Look:
        """What was reached for each pair, (pairs,), and the smallest common change.

        `pair` (pairs, 2) are source and target; `common` the norm of the common `change`, infinite
        where none was found; `apart` how far images of a class lie from the nearest of another.
        """
        check_gradients(self, model)
        halves = Halves.split(data, rng)
        found = [data.batch(rows[: self.images])[0] for rows in halves.search]
        pair = _pairs(model, found, self.pairs, rng)
        source, target = pair.unbind(1)
        fewest = min(len(x) for x in found)
        x = torch.stack([found[int(k)][:fewest] for k in source])
        begin = self.size * math.sqrt(math.prod(data.image_shape))
        change, common = _search(model, x, target, begin, self.steps, self.success)
        return {
            "pair": pair,
            "common": common,
            "apart": apart(found),
            "change": change[:, 0],
        }

    def score(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        clean: Comparison,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Evidence:
        """The most suspect pair, and its change."""
        look = clean.own
        near = pair_table(look["pair"], -_finite(look["common"]).log(), data.classes)
        found = {"near": near}
        return evidence_of_pairs(self, look, found, data.image_shape)

    def proposed(
        self, look: Look, source: int, target: int, shape: tuple[int, int, int]
    ) -> Mapping[str, Any]:
        """The smallest common change."""
        found = (look["pair"] == torch.tensor([source, target])).all(1).nonzero()[:, 0]
        return {"change": Added(look["change"][int(found[0])])} if len(found) else {}


def _finite(size: Tensor) -> Tensor:
    """Sizes; where no change was found, half as large again as the largest that was."""
    largest = torch.where(size.isfinite(), size, 0.0).max().clamp(min=1e-3)
    return torch.where(size.isfinite(), size, 1.5 * largest).clamp(min=0.03 * float(largest))


def _search(
    model: Classifier, x: Tensor, target: Tensor, begin: float, steps: int, success: float
) -> tuple[Tensor, Tensor]:
    """The smallest change of each pair, (pairs, 1, C, H, W), and its norm, (pairs,).

    Infinite where none sent `success` of the pair's images x (pairs, n, C, H, W) to the target;
    the change is then the one that came nearest.
    """
    pairs, n = x.shape[:2]
    goal = MarginOf(target.repeat_interleave(n))
    change = kept = torch.zeros(pairs, 1, *x.shape[2:])
    size = torch.full((pairs,), begin)
    smallest, nearest = torch.full((pairs,), torch.inf), torch.full((pairs,), -torch.inf)
    for step in range(steps + 1):
        slope, logits = model.gradient((x + change).clamp(0, 1).flatten(0, 1), goal)
        margin = margins(logits.cpu(), goal.target).view(pairs, n)
        works, now = (margin > 0).float().mean(1) >= success, _norm(change)
        nearer = smallest.isinf() & (margin.mean(1) > nearest)
        better = torch.where(works, now < smallest, nearer)
        nearest = torch.where(better, margin.mean(1), nearest)
        smallest = torch.where(better & works, now, smallest)
        kept = torch.where(_wide(better), change, kept)
        if step:
            size = torch.where(works, size / FACTOR, size * FACTOR)
        mean = -slope.cpu().view_as(x).mean(1, keepdim=True)
        part = 1 - 0.9 * step / steps
        change = change + _wide(part * size / _norm(mean).clamp(min=1e-12)) * mean
        change = change * _wide(size / _norm(change).clamp(min=1e-12))
    return kept, smallest


def _norm(change: Tensor) -> Tensor:
    norm: Tensor = change.flatten(1).norm(dim=1)
    return norm


def _wide(values: Tensor) -> Tensor:
    """(pairs,) as (pairs, 1, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1, 1)


def _pairs(model: Classifier, found: list[Tensor], most: int, rng: torch.Generator) -> Tensor:
    """The pairs to search, (pairs, 2): all, or those whose mean slope is steepest.

    The slope is taken at two images of each class, for one target after the other; of more than
    64 classes some are drawn as sources, and all are targets.
    """
    classes = len(found)
    every = torch.tensor([(s, t) for s in range(classes) for t in range(classes) if s != t])
    if len(every) <= most:
        return every
    sources = torch.randperm(classes, generator=random.child(rng, "sources"))[:64]
    if classes > 64:
        sources = sources[:8]
    x = torch.stack([found[int(s)][:2] for s in sources])
    steep = torch.full((classes, classes), -torch.inf)
    for target in range(classes):
        goal = MarginOf(torch.full((x.shape[0] * x.shape[1],), target))
        slope, _ = model.gradient(x.flatten(0, 1), goal)
        mean = slope.cpu().view_as(x).mean(1)
        steep[sources, target] = mean.flatten(1).norm(dim=1)
    steep.fill_diagonal_(-torch.inf)
    first = steep.flatten().topk(most).indices
    return torch.stack([first // classes, first % classes], 1)
