"""Universal perturbation: does one change move all images of a class as far as each its own?"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import (
    Added,
    Bent,
    Change,
    Comparison,
    Evidence,
    Halves,
    Inspector,
    Laid,
    Look,
    MarginOf,
    Progress,
    apart,
    logit_scale,
    margins,
    pair_table,
    ranked,
)
from mithridate.errors import InputError, check_number
from mithridate.metrics.outliers import (
    beside,
    column,
    outlier,
    permutation,
    standing_out,
    unexplained,
)

GRID = 4
"""Control points of a flow along a side, as WaNet's."""
KEEPS = 0.6
"""Of the earlier gradients, in the average by which pixels are chosen."""


@final
@dataclass(frozen=True, kw_only=True)
class UniversalPerturbation(Inspector):
    """For each pair of classes the smallest change that sends images of the one to the other.

    A backdoor is a small change that works on every image alike. For each (source, target) the
    smallest change that sends `success` of the source's images to the target is searched by
    gradient ascent on the margin (the target's logit less the largest other), its size falling
    while it works and rising while it does not, as DDN's (Rony et al. 2019).

    Some classes lie near to each other by nature, and some networks are fooled more easily than
    others. So the logarithms of the sizes are put on the line that they follow over the distance
    between the classes' own images, within this model alone, and what counts is by how much a
    pair is nearer than that line, in median absolute deviations of all pairs (`pair`: one to
    one), the same of the median over the sources of a target (`target`: all to one) and of the
    best permutation (`all`: all to all). `margin` and `margin-target` are these of the margins
    which the changes reach when half as large again, on held-out images. The statistic is the
    larger of the first two.

    Beside a clean model (`clean`), further scores say what this one has that the other has not:
    `metrics.outliers.beside`.

    Universal perturbations are Moosavi-Dezfooli et al.'s (2017), the search by pairs is that of
    K-Arm (Shen et al. 2021); the scores are the project's.

    Args:
        family: what a change is: "l2", values added, by their norm; "pixels", pixels set to 0 or
            1, by their number; "flow", images bent by 4 x 4 offsets (WaNet's triggers), by the
            norm of these.
        size: at which the search begins; None for what is usual: "l2" root mean square of all
            values (0.054), "pixels" share of the image's (0.015), "flow" root mean square of
            the offsets over the image's side (0.025).
        steps: of the search.
        images: of each class that a change is grown on, and twice as many that it is tested on.
        pairs: that are searched at most; where there are more, those with the steepest slope.
        success: share of the images that a common change is to send to the target.
        controls, control_epochs, alpha: as of every `Inspector`.

    Raises:
        InputError: a setting out of range.

    >>> UniversalPerturbation(family="pixels").size_of((1, 28, 28))
    12.0
    """

    about: ClassVar[About] = About(
        paper="Moosavi-Dezfooli et al. 2017; Shen et al. 2021",
        access=("gradient",),
        needs=("clean images",),
        atlas=("AML.M0008",),
        nist=("023",),
    )
    statistic: ClassVar[str] = "Deviations by which the nearest pair or target is too near"

    family: Literal["l2", "pixels", "flow"] = "l2"
    size: float | None = None
    steps: int = 14
    images: int = 6
    pairs: int = 90
    success: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.family not in USUAL:
            known = ", ".join(USUAL)
            raise InputError(f"family is one of {known}, got {self.family!r}")
        if self.size is not None:
            check_number("size", self.size, low=0, high=1, open_low=True)
        for name in ("steps", "images", "pairs"):
            check_number(name, getattr(self, name), low=1)
        check_number("success", self.success, low=0, high=1, open_low=True)

    def size_of(self, image_shape: tuple[int, int, int]) -> float:
        """Where the search begins, in the family's own unit: a norm, or a number of pixels."""
        size = USUAL[self.family] if self.size is None else self.size
        channels, height, width = image_shape
        if self.family == "l2":
            return size * math.sqrt(channels * height * width)
        if self.family == "pixels":
            return float(max(1, round(size * height * width)))
        return size * min(height, width) * math.sqrt(2) * GRID

    def cost(self, sizes: Sizes) -> Work:
        """Every pair's images at each step."""
        number = min(self.pairs, sizes.classes * (sizes.classes - 1))
        each = min(self.images, max(1, sizes.test // (2 * sizes.classes)))
        passes = number * each * (self.steps + 1)
        return Work(forwards=passes + 4 * number * each, gradients=passes)

    def look_cost(self, sizes: Sizes) -> Work:
        """All of it."""
        return self.cost(sizes)

    def look(self, model: Classifier, data: ImageSet, *, rng: torch.Generator) -> Look:
        """What was reached for each pair, (pairs,), and the smallest common change.

        `pair` (pairs, 2) are source and target; `common` the size of the common change, infinite
        where none was found; `share` of held-out
        images that the common change sends to the target and `held` their mean margin, `more`
        the same margin with the change half as large again; `apart` how far images of the
        source lie from the nearest of the target; `scale` how far the right logit of a clean image
        lies above the mean of the others.
        """
        if not model.gradients:
            raise InputError(
                "universal-perturbation needs gradients, and this model gives labels and scores: "
                "take --inspector white-noise"
            )
        halves = Halves.split(data, rng)
        found = [data.batch(rows[: self.images])[0] for rows in halves.search]
        held = [data.batch(rows[: 2 * self.images])[0] for rows in halves.confirm]
        chosen = _pairs(model, found, self.pairs, rng)
        family = FAMILIES[self.family](data.image_shape)
        source, target = chosen.unbind(1)
        search = _Search(model, [found[int(k)] for k in source], target, family, self.success)
        begin = self.size_of(data.image_shape)
        common, change = search.run(begin, self.steps)
        tests = [held[int(k)] for k in source]
        counts = [len(x) for x in tests]
        goal = target.repeat_interleave(torch.tensor(counts))
        reached = []
        for factor in (1.0, 1.5):
            changed = [
                family.apply(x[None], family.grown(change[p, None], factor))[0].clamp(0, 1)
                for p, x in enumerate(tests)
            ]
            with torch.no_grad():
                logits = model.logits(torch.cat(changed)).cpu()
            reached.append(margins(logits, goal).split_with_sizes(counts))
        return {
            "pair": chosen,
            "common": common[:, 0],
            "held": torch.stack([part.mean() for part in reached[0]]),
            "share": torch.stack([(part > 0).float().mean() for part in reached[0]]),
            "more": torch.stack([part.mean() for part in reached[1]]),
            "apart": apart(found),
            "scale": logit_scale(model, held)[None],
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
        near, more = self._tables(look, data.classes)
        free = unexplained(near, look["apart"].log())
        scores = {
            "pair": outlier(free),
            "target": column(free),
            "all": permutation(free),
            "margin": outlier(more),
            "margin-target": column(more),
        }
        pictures = {"pair_scores": near}
        if clean.looks:
            other, _ = self._tables(clean.looks[0], data.classes)
            scores |= beside(near, other)
            pictures["pair_scores_reference"] = other
        source, target = standing_out(free)
        first = int((look["pair"] == torch.tensor([source, target])).all(1).nonzero()[0])
        change = FAMILIES[self.family](data.image_shape).change(look["change"][first])
        return Evidence(
            statistic=max(scores["pair"], scores["target"]),
            scores=scores,
            source=source,
            target=target,
            change=change,
            trigger=change.pattern if isinstance(change, Laid) else None,
            ranking=ranked(free),
            pictures=pictures,
        )

    def _tables(self, look: Look, classes: int) -> tuple[Tensor, Tensor]:
        """How near each pair is, and the margins of changes half as large again: (K, K)."""
        near = pair_table(look["pair"], -_finite(look["common"]).log(), classes)
        more = look["more"] / look["scale"].clamp(min=1e-6)
        return near, pair_table(look["pair"], more, classes)


USUAL = {"l2": 0.054, "pixels": 0.015, "flow": 0.025}
"""Families with the size at which a search usually begins."""


def _finite(size: Tensor) -> Tensor:
    """Sizes; where no change was found, half as large again as the largest that was."""
    largest = torch.where(size.isfinite(), size, 0.0).max().clamp(min=1e-3)
    return torch.where(size.isfinite(), size, 1.5 * largest).clamp(min=0.03 * float(largest))


class Family(ABC):
    """One kind of change: parameters (pairs, 1, ...)."""

    factor: ClassVar[float] = 1.2
    """By which a size falls and rises."""

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        self.image_shape = image_shape

    @abstractmethod
    def start(self, pairs: int) -> Tensor:
        """Parameters of no change."""

    @abstractmethod
    def apply(self, x: Tensor, change: Tensor) -> Tensor:
        """Images (pairs, n, C, H, W) changed, not yet clipped."""

    @abstractmethod
    def climb(self, x: Tensor, change: Tensor, slope: Tensor, size: Tensor, part: float) -> Tensor:
        """The next parameters, of that size, by the slope of the margins at the changed images.

        Args:
            size: (pairs, 1).
            part: of the size that a step is long.
        """

    def size(self, change: Tensor) -> Tensor:
        """(pairs, 1)."""
        norm: Tensor = change.flatten(2).norm(dim=2)
        return norm

    def grown(self, change: Tensor, factor: float) -> Tensor:
        """The change, larger."""
        return change * factor

    @abstractmethod
    def change(self, parameters: Tensor) -> Change:
        """The change of one pair."""


class _L2(Family):
    """Added values."""

    def start(self, pairs: int) -> Tensor:
        return torch.zeros(pairs, 1, *self.image_shape)

    def apply(self, x: Tensor, change: Tensor) -> Tensor:
        return x + change

    def climb(self, x: Tensor, change: Tensor, slope: Tensor, size: Tensor, part: float) -> Tensor:
        return _moved(change, _mean(slope), size, part)

    def change(self, parameters: Tensor) -> Change:
        return Added(parameters)


class _Pixels(Family):
    """A few pixels set to 0 or 1 in each channel; NaN elsewhere.

    Those are set whose change promises most by the average of the slopes so far: each step sets
    them anew, so a change is always whole, and no pixel is worn in by small steps whose slope a
    trigger that is not there yet would not show.
    """

    factor = 1.3
    average: Tensor | None = None

    def start(self, pairs: int) -> Tensor:
        self.average = None
        return torch.full((pairs, 1, *self.image_shape), torch.nan)

    def apply(self, x: Tensor, change: Tensor) -> Tensor:
        return torch.where(change.isnan(), x, change.nan_to_num())

    def climb(self, x: Tensor, change: Tensor, slope: Tensor, size: Tensor, part: float) -> Tensor:
        slope = _mean(slope)
        slope = slope / _wide(slope.flatten(2).norm(dim=2).clamp(min=1e-12), slope)
        self.average = slope if self.average is None else KEEPS * self.average + slope
        values = (self.average > 0).float()
        gain = self.average.abs() * _mean((values - x).abs())
        gain = gain.sum(2).flatten(2)
        rank = gain.argsort(2, descending=True).argsort(2)
        shown = rank < size.round().clamp(min=1)[..., None]
        shown = shown.view(*shown.shape[:2], 1, *self.image_shape[1:])
        return torch.where(shown, values, torch.nan)

    def size(self, change: Tensor) -> Tensor:
        return (~change.isnan()).any(2).flatten(2).sum(2).float()

    def grown(self, change: Tensor, factor: float) -> Tensor:
        return change

    def change(self, parameters: Tensor) -> Change:
        return Laid(parameters)


class _Flow(Family):
    """Images bent by offsets at a few control points, widened by bicubic interpolation."""

    def start(self, pairs: int) -> Tensor:
        return torch.zeros(pairs, 1, 2, GRID, GRID)

    def apply(self, x: Tensor, change: Tensor) -> Tensor:
        offsets = change.expand(*x.shape[:2], -1, -1, -1)
        return Bent.bend(x.flatten(0, 1), offsets.flatten(0, 1)).view_as(x)

    def climb(self, x: Tensor, change: Tensor, slope: Tensor, size: Tensor, part: float) -> Tensor:
        with torch.enable_grad():
            free = change.clone().requires_grad_()
            (own,) = torch.autograd.grad(self.apply(x, free), free, slope)
        return _moved(change, own, size, part)

    def change(self, parameters: Tensor) -> Change:
        return Bent(parameters)


FAMILIES: dict[str, type[Family]] = {"l2": _L2, "pixels": _Pixels, "flow": _Flow}


def _mean(slope: Tensor) -> Tensor:
    """Over the images of a pair."""
    return slope.mean(1, keepdim=True)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """(pairs, 1) with as many dimensions as `like`."""
    return values.view(*values.shape, *([1] * (like.dim() - 2)))


def _moved(change: Tensor, slope: Tensor, size: Tensor, part: float) -> Tensor:
    """Along the slope by a part of the size, then onto the sphere of that size."""
    length = slope.flatten(2).norm(dim=2).clamp(min=1e-12)
    moved = change + _wide(part * size / length, slope) * slope
    norm = moved.flatten(2).norm(dim=2).clamp(min=1e-12)
    return moved * _wide(size / norm, moved)


class _Search:
    """Searches the smallest changes of all pairs together."""

    def __init__(
        self,
        model: Classifier,
        images: list[Tensor],
        target: Tensor,
        family: Family,
        success: float,
    ) -> None:
        fewest = min(len(x) for x in images)
        self.model, self.family, self.success = model, family, success
        self.x = torch.stack([x[:fewest] for x in images])
        self.goal = MarginOf(target.repeat_interleave(fewest))

    def run(self, begin: float, steps: int) -> tuple[Tensor, Tensor]:
        """The smallest sizes that work, (pairs, 1), infinite where none, and the changes."""
        pairs, n = self.x.shape[:2]
        family = self.family
        change = kept = family.start(pairs)
        size = torch.full((pairs, 1), begin)
        smallest, nearest = torch.full((pairs, 1), torch.inf), torch.full((pairs, 1), -torch.inf)
        for step in range(steps + 1):
            shown = family.apply(self.x, change).clamp(0, 1)
            slope, logits = self.model.gradient(shown.flatten(0, 1), self.goal)
            margin = margins(logits.cpu(), self.goal.target).view(pairs, n)
            share = (margin > 0).float().mean(1, keepdim=True)
            margin = margin.mean(1, keepdim=True)
            works, now = share >= self.success, family.size(change)
            never = smallest.isinf()
            better = torch.where(works, now < smallest, never & (margin > nearest))
            nearest = torch.where(better, margin, nearest)
            smallest = torch.where(better & works, now, smallest)
            kept = torch.where(_wide(better, change), change, kept)
            if step:
                size = torch.where(works, size / family.factor, size * family.factor)
            if step < steps:
                slope = -slope.cpu().view_as(self.x)
                change = family.climb(self.x, change, slope, size, 1 - 0.9 * step / steps)
        return smallest, kept


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
