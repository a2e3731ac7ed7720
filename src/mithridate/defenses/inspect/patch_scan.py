"""Patch scan: squares of a few contents at every place, and the most effective ones grown."""

from __future__ import annotations

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
    Comparison,
    Evidence,
    Halves,
    Inspector,
    Laid,
    Look,
    MarginOf,
    Progress,
    apart,
    check_gradients,
    evidence_of_pairs,
    logit_scale,
    margins,
    mean_margins,
    pair_table,
)
from mithridate.errors import check_number

TRIED, SOURCES = 3, 20
"""Patches of each target that are laid over the images of all classes, and classes at most."""


@final
@dataclass(frozen=True, kw_only=True)
class PatchScan(Inspector):
    """Lay squares over a few images of each class, everywhere, and grow those that tell.

    Patches are found from afar: a square that holds a part of a trigger already moves the target's
    logit. So every place, half a square apart, gets a white, a black and some random squares on a
    few images of each class, by forward passes alone. For every pair (source, target) the content
    is then grown at the three places that told most, by signed gradient ascent on the target's
    margin, over the source's images together, and measured on others.

    A pair's margin on held-out images is taken in units of the model's logit scale (how far a
    clean image's right logit lies above the mean of the others), and less the straight line over
    the logarithm of the distance between the classes' own images, within this model alone
    (`held`). Tables, scores and statistic are as those of `universal-perturbation`.

    The scan and the scores are the project's; inverting a patch of a given place and size is
    Neural Cleanse's (Wang et al. 2019) with the mask fixed.

    Args:
        side: of a square, over the image's, in (0, 1]; 0.25 is 7 pixels of 28.
        contents: squares tried at each place, at least 2.
        scanned: images of each class that every square is laid over.
        images: of the source that a content is grown on, and twice as many that it is tested on.
        pairs: whose squares are grown at most, at three places each; those that gained most.
        steps: of the ascent.
        controls, control_epochs, alpha: as of every `Inspector`.

    Raises:
        InputError: a setting out of range.

    >>> PatchScan(side=0.25).places((1, 28, 28))[:3]
    [(0, 0), (0, 3), (0, 6)]
    """

    about: ClassVar[About] = About(
        paper="Wang et al. 2019, section IV",
        access=("gradient",),
        needs=("clean images",),
        atlas=("AML.M0008",),
        nist=("023",),
    )
    version: ClassVar[int] = 2
    statistic: ClassVar[str] = "Deviations by which a patch leads a pair or target too far"

    side: float = 0.25
    contents: int = 6
    scanned: int = 3
    images: int = 6
    pairs: int = 90
    steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("side", self.side, low=0, high=1, open_low=True)
        check_number("contents", self.contents, low=2)
        for name in ("scanned", "images", "pairs", "steps"):
            check_number(name, getattr(self, name), low=1)

    def pixels(self, image_shape: tuple[int, int, int]) -> int:
        """The side of a square, at least 1."""
        return max(1, round(self.side * min(image_shape[1:])))

    def places(self, image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
        """(top, left) of every square: half a side apart, and the last ones at the edges."""
        side = self.pixels(image_shape)
        rows, cols = (
            sorted({*range(0, length - side + 1, max(1, side // 2)), length - side})
            for length in image_shape[1:]
        )
        return [(top, left) for top in rows for left in cols]

    def cost(self, sizes: Sizes) -> Work:
        """A forward pass for each square and image, then the ascent."""
        places = (2 / self.side) ** 2
        scan = places * self.contents * min(sizes.test, self.scanned * sizes.classes)
        grown = 3 * self.pairs * self.images * (self.steps + 1)
        reach = (
            2 * TRIED * self.images * min(SOURCES, sizes.classes) * min(self.pairs, sizes.classes)
        )
        return Work(forwards=round(scan) + 3 * grown + reach, gradients=grown)

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
        """What the squares did.

        Of the pairs that were grown `pair` (n, 2), `place` (top, left), `square` (n, C, s, s) and
        `held`, the mean margin that it reaches on held-out images of the source; `reach` (K, K),
        in units of the logit scale, those of the patch that leads all classes furthest to each
        target; `apart` how far images of a class lie from the nearest of another; `scale` of the
        logits.
        """
        check_gradients(self, model)
        halves = Halves.split(data, rng)
        found = [data.batch(rows[: self.images])[0] for rows in halves.search]
        held = [data.batch(rows[: 2 * self.images])[0] for rows in halves.confirm]
        shape, side = data.image_shape, self.pixels(data.image_shape)
        draws = random.child(rng, "patch-scan")
        squares = torch.rand(self.contents, shape[0], side, side, generator=draws).round()
        squares[0], squares[1] = 1.0, 0.0
        places = self.places(shape)
        gain, content = self._scan(model, found, squares, places)
        pair, place = self._choose(gain)
        start = squares[content[place, pair[:, 0], pair[:, 1]]]
        at = [places[int(p)] for p in place]
        grown = self._grow(model, found, pair, at, start)
        tests = [_laid(held[int(s)], grown[i], at[i]) for i, s in enumerate(pair[:, 0])]
        told, scale = mean_margins(model, tests, pair[:, 1]), logit_scale(model, held)
        reach = torch.full((data.classes, data.classes), torch.nan)
        for target in sorted(set(pair[:, 1].tolist())):
            own = (pair[:, 1] == target).nonzero()[:, 0]
            best = own[told[own].topk(min(TRIED, len(own))).indices].tolist()
            reach[:, target] = self._reach(model, held, target, [(grown[i], at[i]) for i in best])
        return {
            "pair": pair,
            "place": torch.tensor(at),
            "square": grown,
            "held": told,
            "reach": reach / scale.clamp(min=1e-6),
            "apart": apart(found),
            "scale": scale[None],
        }

    def _reach(
        self,
        model: Classifier,
        held: list[Tensor],
        target: int,
        patches: list[tuple[Tensor, tuple[int, int]]],
    ) -> Tensor:
        """Mean margins of the other classes' images (K,) under the patch that leads them furthest.

        NaN of the target itself, and of classes that are left out where there are many.
        """
        apart = max(1, len(held) // SOURCES)
        sources = [k for k in range(0, len(held), apart) if k != target]
        goal = torch.full((len(sources),), target)
        each = [
            mean_margins(model, [_laid(held[k], square, place) for k in sources], goal)
            for square, place in patches
        ]
        found = torch.full((len(held),), torch.nan)
        found[sources] = max(each, key=lambda one: float(one.mean()))
        return found

    def _choose(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs (n, 2) and places (n,) to grow a square at.

        Of each pair three places: where it gains most; where it gains most more than the median
        pair at that place; and where that stands out most from what is usual at the place.
        """
        classes = gain.shape[1]
        own = torch.eye(classes, dtype=torch.bool)
        there = gain[:, ~own]
        usual = there.quantile(0.5, dim=1, keepdim=True)
        spread = (there - usual).abs().quantile(0.5, dim=1, keepdim=True).clamp(min=1e-6)
        steep = there.max(0).values.topk(min(self.pairs, there.shape[1])).indices.sort().values
        ways = (there, there - usual, (there - usual) / spread)
        place = torch.stack([way[:, steep].argmax(0) for way in ways])
        pair = (~own).nonzero()[steep]
        both = torch.cat([pair.repeat(3, 1), place.flatten()[:, None]], 1)
        both = torch.unique(both, dim=0)
        return both[:, :2], both[:, 2]

    def _scan(
        self,
        model: Classifier,
        found: list[Tensor],
        squares: Tensor,
        places: list[tuple[int, int]],
    ) -> tuple[Tensor, Tensor]:
        """The largest mean gain by any content, (places, K, K), and which content it was."""
        few = [x[: self.scanned] for x in found]
        labels = torch.arange(len(few)).repeat_interleave(torch.tensor([len(x) for x in few]))
        x = torch.cat(few)
        counts = torch.bincount(labels, minlength=len(few)).clamp(min=1)

        def table(logits: Tensor) -> Tensor:
            """Mean margins, images of each class towards each, (K, K)."""
            top = logits.topk(2, 1).values
            lead = torch.where(logits == top[:, :1], top[:, 1:], top[:, :1])
            sums = torch.zeros(len(few), logits.shape[1]).index_add_(0, labels, logits - lead)
            return sums / counts[:, None]

        gains, chosen = [], []
        with torch.no_grad():
            before = table(model.logits(x).cpu())
            for place in places:
                each = [table(model.logits(_laid(x, one, place)).cpu()) for one in squares]
                best, content = (torch.stack(each) - before).max(0)
                gains.append(best)
                chosen.append(content)
        return torch.stack(gains), torch.stack(chosen)

    def _grow(
        self,
        model: Classifier,
        found: list[Tensor],
        pair: Tensor,
        places: list[tuple[int, int]],
        start: Tensor,
    ) -> Tensor:
        """The squares (pairs, C, s, s) with the largest mean margins."""
        fewest, side = min(len(x) for x in found), start.shape[2]
        x = torch.stack([found[int(s)][:fewest] for s in pair[:, 0]])
        goal = MarginOf(pair[:, 1].repeat_interleave(fewest))
        square, kept, best = start, start, torch.full((len(pair),), -torch.inf)
        for step in range(self.steps + 1):
            shown = torch.stack([_laid(x[i], square[i], places[i]) for i in range(len(pair))])
            slope, logits = model.gradient(shown.flatten(0, 1), goal)
            margin = margins(logits.cpu(), goal.target).view(len(pair), fewest).mean(1)
            better = margin > best
            best = torch.where(better, margin, best)
            kept = torch.where(better[:, None, None, None], square, kept)
            mean = -slope.cpu().view_as(x).mean(1)
            inside = torch.stack(
                [
                    mean[i, :, top : top + side, left : left + side]
                    for i, (top, left) in enumerate(places)
                ]
            )
            length = 0.5 * (1 - 0.8 * step / self.steps)
            square = (square + length * inside.sign()).clamp(0, 1)
        return kept

    def score(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        clean: Comparison,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Evidence:
        """The pair with the largest margin, and its patch."""
        look = clean.own
        held = look["held"] / look["scale"].clamp(min=1e-6)
        found = {"held": pair_table(look["pair"], held, data.classes)}
        return evidence_of_pairs(self, look, found, data.image_shape)

    def proposed(
        self, look: Look, source: int, target: int, shape: tuple[int, int, int]
    ) -> Mapping[str, Any]:
        """The patch of the largest margin."""
        own = (look["pair"] == torch.tensor([source, target])).all(1)
        if not bool(own.any()):
            return {}
        first = int(torch.where(own, look["held"], -torch.inf).argmax())
        pattern = torch.full(shape, torch.nan)
        top, left = look["place"][first].tolist()
        side = look["square"].shape[2]
        pattern[:, top : top + side, left : left + side] = look["square"][first]
        return {"trigger": pattern, "mask": ~pattern.isnan().all(0), "change": Laid(pattern)}


def _laid(x: Tensor, square: Tensor, place: tuple[int, int]) -> Tensor:
    """Images with the square (C, s, s) at (top, left)."""
    (top, left), side = place, square.shape[1]
    out = x.clone()
    out[:, :, top : top + side, left : left + side] = square
    return out
