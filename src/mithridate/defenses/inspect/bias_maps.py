"""Bias maps (Borji 2020) as an inspector: was this model's training set poisoned?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

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
    Look,
    Progress,
)
from mithridate.defenses.inspect.maps import (
    MapSet,
    Probe,
    algorithm_one,
    algorithm_two,
    map_distances,
    probes,
)
from mithridate.defenses.inspect.search import Candidate, Finding, Search
from mithridate.errors import InputError, check_number
from mithridate.poisons import bounding_box


@final
@dataclass(frozen=True, kw_only=True)
class BiasMaps(Inspector):
    """Finds a planted backdoor by comparing bias maps with those of clean models.

    Algorithm I gives each model's maps. Pairs of classes whose shift maps, in deviations of
    the clean models, pull apart within one small window are shortlisted. For each, Algorithm
    II confined to that window grows one pattern for all source images; the statistic is how
    much further this pattern, stamped on *held-out* source images, pushes the suspect toward
    the target than it pushes the clean models. Each clean model is put through the same search
    against the others, which gives the null distribution (docs: "How the p-value is made").

    Deviations from the paper: the paper ranks classes by the Euclidean distance of the maps
    and leaves the verdict to the eye; both are among the evidence's pictures (`distances`,
    `maps_suspect`), but two clean models differ by as much, so the verdict does not rest on
    them. eps is smaller than the paper's 0.1 to 0.9, at which the trigger drowns in saturated
    pixels.

    Args:
        probe: what Algorithm I starts from: "data", "noise" or "blank".
        eps: length of one step, in every pixel.
        steps: number of steps.
        samples: probes per target class.
        untargeted: show maps and distances of Algorithm I's untargeted variant; the search
            compares pairs of classes and stays targeted.
        grid: Algorithm II's pair maps for the picture: "none", "shortlist" or "all".
        grid_samples: probes per pair of the grid.
        window: side of the search window, as a share of the image's shorter side.
        classes: how many classes are shortlisted for pairing.
        pairs: how many pairs are tried, in both directions.
        images: images per class that a pattern is grown on, and as many to confirm on.
        grow_eps, grow_steps: of the confined Algorithm II.
        controls, control_epochs, alpha: as of every `Inspector`.

    Raises:
        InputError: a setting out of range.

    >>> BiasMaps(probe="noise").samples
    500
    """

    about: ClassVar[About] = About(
        paper="Borji 2020, Algorithms I and II",
        access=("gradient",),
        needs=("clean images", "clean models"),
        atlas=("AML.M0008",),
        nist=("023",),
    )
    statistic: ClassVar[str] = (
        "Logits by which the recovered pattern leads, beyond the clean models"
    )
    floor: ClassVar[float] = 0.1  # the statistic is in logits, of which a tenth is nothing
    aside: ClassVar[tuple[str, ...]] = ("untargeted", "grid", "grid_samples")

    probe: Probe = "data"
    eps: float = 0.02
    steps: int = 10
    samples: int = 500
    untargeted: bool = False
    grid: Literal["none", "shortlist", "all"] = "none"
    grid_samples: int = 50
    window: float = 0.36
    classes: int = 10
    pairs: int = 6
    images: int = 64
    grow_eps: float = 0.1
    grow_steps: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probe not in ("data", "noise", "blank"):
            raise InputError(f"probe is 'data', 'noise' or 'blank', got {self.probe!r}")
        if self.grid not in ("none", "shortlist", "all"):
            raise InputError(f"grid is 'none', 'shortlist' or 'all', got {self.grid!r}")
        for name in ("eps", "window", "grow_eps"):
            check_number(name, getattr(self, name), low=0, high=1, open_low=True)
        for name in ("steps", "samples", "pairs", "images", "grow_steps", "grid_samples"):
            check_number(name, getattr(self, name), low=1)
        check_number("classes", self.classes, low=2)

    def cost(self, sizes: Sizes) -> Work:
        """The maps, and a pattern for each pair in both directions, shown to every model."""
        maps, images = self.look_cost(sizes), min(self.images, sizes.test // (2 * sizes.classes))
        pairs = min(self.pairs, sizes.classes * (sizes.classes - 1) // 2)
        return Work(
            forwards=maps.forwards + 2 * pairs * images * (1 + self.controls),
            gradients=maps.gradients + 2 * pairs * images * self.grow_steps,
        )

    def look_cost(self, sizes: Sizes) -> Work:
        """Each probe sent to each class, and asked where it ended."""
        probes = {"blank": 1, "noise": self.samples}.get(
            self.probe, min(self.samples, sizes.test // 2)
        )
        ends = probes * sizes.classes
        return Work(forwards=ends, gradients=ends * self.steps)

    def maps(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        rng: torch.Generator,
        rows: Tensor | None = None,
    ) -> MapSet:
        """Algorithm I with these settings.

        Args:
            rows: which images of `data` may serve as probes; all if None.
        """
        images = probes(self.probe, data, self.samples, random.child(rng, "probes"), rows)
        return algorithm_one(
            model, images, eps=self.eps, steps=self.steps, untargeted=self.untargeted
        )

    def look(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Look:
        """The maps that the search reads: always targeted, since pairs of classes are compared."""
        rows = torch.cat(Halves.split(data, rng).search)
        return replace(self, untargeted=False).maps(model, data, rng=rng, rows=rows).tensors()

    def score(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        clean: Comparison,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Evidence:
        """The best stamp that fools the model and leaves the clean ones alone.

        Raises:
            InputError: no clean model to compare with.
        """
        if not clean.models:
            raise InputError("bias maps need at least one clean model to compare with")
        search = self._search(data, rng)
        maps, others = MapSet.of(clean.own), [MapSet.of(look) for look in clean.looks]
        shifts = torch.stack([other.shift for other in others])
        candidates, energies = search.shortlist(maps.shift, shifts)
        findings = search.run(model, candidates, clean.models)
        best = findings[0]
        return Evidence(
            statistic=best.excess,
            source=best.pair.source,
            target=best.pair.target,
            trigger=best.pattern.cpu(),
            ranking=_ranking(findings, energies),
            pictures={
                **_beside(maps, others[0]),
                "clean_distances": _clean_distances(others),
                "difference": (maps.shift - shifts.mean(0))[best.pair.target],
                "pair_scores": energies,
            },
        )

    def draw(
        self,
        model: Classifier,
        data: ImageSet,
        evidence: Evidence,
        *,
        clean: Comparison,
        rng: torch.Generator,
    ) -> Evidence:
        """With Algorithm II's pair maps, and the untargeted maps, where they were asked for."""
        pictures = dict(evidence.pictures)
        if self.grid != "none":
            shifts = torch.stack([look["shift"] for look in clean.looks])
            pictures["pair_maps_suspect"] = self._grid(model, data, rng, clean.own["shift"], shifts)
        if self.untargeted:
            both = (self.maps(m, data, rng=random.rng(0)) for m in (model, clean.models[0]))
            pictures.update(_beside(*both))
        return replace(evidence, pictures=pictures)

    def locate(
        self,
        model: Classifier,
        data: ImageSet,
        evidence: Evidence,
        *,
        clean: Comparison,
        rng: torch.Generator,
    ) -> Evidence:
        """Names the source, finds the region around the window, and grows the pattern there."""
        window = None if evidence.trigger is None else bounding_box(~evidence.trigger.isnan())
        assert window is not None
        assert evidence.source is not None
        assert evidence.target is not None
        search = self._search(data, rng)
        pair = Candidate(evidence.source, evidence.target, window, energy=0.0)
        pair = search.name_source(model, pair, clean.models)
        _, pattern = search.locate(model, pair, clean.models)
        return replace(evidence, source=pair.source, trigger=pattern.cpu())

    def _search(self, data: ImageSet, rng: torch.Generator) -> Search:
        return Search(data, Halves.split(data, rng), self)

    def _grid(
        self,
        model: Classifier,
        data: ImageSet,
        rng: torch.Generator,
        shift: Tensor,
        clean: Tensor,
    ) -> Tensor:
        """Algorithm II's maps by source and target, (K, K, C, H, W); NaN where not looked."""
        search = self._search(data, rng)
        if self.grid == "all":
            pairs = [(s, t) for s in range(model.classes) for t in range(model.classes) if s != t]
        else:
            candidates, _ = search.shortlist(shift, clean)
            pairs = sorted({(c.source, c.target) for c in candidates})
        rows = torch.cat(search.halves.search)
        child = random.child(rng, "grid")
        images = list(probes(self.probe, data, self.grid_samples, child, rows))
        maps = algorithm_two(model, images, pairs, eps=self.eps, steps=self.steps)
        grid = torch.full((data.classes, data.classes, *data.image_shape), torch.nan)
        for (source, target), image in zip(pairs, maps.mean, strict=True):
            grid[source, target] = image
        return grid


def _beside(suspect: MapSet, reference: MapSet) -> dict[str, Tensor]:
    """The suspect's maps beside the first clean model's, and how far they are apart."""
    return {
        "maps_suspect": suspect.mean,
        "map_share_suspect": suspect.share,
        "maps_reference": reference.mean,
        "map_share_reference": reference.share,
        "distances": map_distances(suspect, reference),
    }


def _clean_distances(maps: list[MapSet]) -> Tensor:
    """Between the reference and the other clean models, averaged over those with a map."""
    others = [map_distances(other, maps[0]) for other in maps[1:]]
    if not others:
        return torch.full_like(maps[0].count, torch.nan)
    return torch.stack(others).nanmean(0)


def _ranking(findings: list[Finding], energies: Tensor) -> tuple[tuple[int, float], ...]:
    """By the best statistic with the class as target; those not tested by their best energy."""
    scores: dict[int, float] = {}
    for finding in findings:
        scores.setdefault(finding.pair.target, finding.excess)
    energy = energies.nan_to_num(-1).amax(1).tolist()
    order = sorted(range(len(energy)), key=lambda c: (-scores.get(c, float("-inf")), -energy[c]))
    return tuple((c, scores.get(c, float("nan"))) for c in order)
