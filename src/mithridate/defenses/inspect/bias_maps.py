"""Bias maps (Borji 2020) with a calibrated verdict: was this model's training set poisoned?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.classifier import Classifier, Cost
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import (
    Inspector,
    MapSet,
    Progress,
    Verdict,
    map_distances,
    same_architecture,
    tell,
)
from mithridate.defenses.inspect.controls import train_controls
from mithridate.defenses.inspect.maps import Probe, algorithm_one, algorithm_two, probes
from mithridate.defenses.inspect.search import Finding, Halves, Search, SearchSettings
from mithridate.defenses.inspect.verdict import Evidence, conclude
from mithridate.errors import InputError, check_number

MIN_CLEAN = 3


@dataclass(frozen=True)
class CleanSide:
    """The clean models of one audit: their maps, and the statistic of each against the rest."""

    models: tuple[Classifier, ...]
    maps: tuple[MapSet, ...]
    null_values: tuple[float, ...]
    seed: int


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
    and leaves the verdict to the eye; both are reported here too (`distances`, `maps`), but two
    clean models differ by as much, so the verdict does not rest on them. eps is smaller than
    the paper's 0.1 to 0.9, at which the trigger drowns in saturated pixels.

    Args:
        probe: what Algorithm I starts from: "data", "noise" or "blank".
        eps: length of one step, in every pixel.
        steps: number of steps.
        samples: probes per target class.
        untargeted: report maps and distances of Algorithm I's untargeted variant; the search
            compares pairs of classes and stays targeted.
        grid: Algorithm II's pair maps for the picture: "none", "shortlist" or "all".
        grid_samples: probes per pair of the grid.
        window: side of the search window, as a share of the image's shorter side.
        classes: how many classes are shortlisted for pairing.
        pairs: how many pairs are tried, in both directions.
        images: images per class that a pattern is grown on, and as many to confirm on.
        grow_eps, grow_steps: of the confined Algorithm II.
        controls: clean models to have at least; missing ones are trained on half of the data
            given to `inspect` (from scratch, the suspect's architecture).
        control_epochs: their epochs.
        alpha: significance level of the verdict.

    Raises:
        InputError: a setting out of range.

    >>> BiasMaps(probe="noise").samples
    500
    """

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
    controls: int = 8
    control_epochs: int = 5
    alpha: float = 0.01

    def __post_init__(self) -> None:
        if self.probe not in ("data", "noise", "blank"):
            raise InputError(f"probe is 'data', 'noise' or 'blank', got {self.probe!r}")
        if self.grid not in ("none", "shortlist", "all"):
            raise InputError(f"grid is 'none', 'shortlist' or 'all', got {self.grid!r}")
        for name in ("eps", "window", "grow_eps", "alpha"):
            check_number(name, getattr(self, name), low=0, high=1, open_low=True)
        for name in ("steps", "samples", "pairs", "images", "grow_steps", "grid_samples"):
            check_number(name, getattr(self, name), low=1)
        check_number("classes", self.classes, low=2)
        check_number("controls", self.controls, low=0)
        check_number("control_epochs", self.control_epochs, low=1)

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

    def calibrate(
        self,
        clean: Sequence[Classifier],
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> CleanSide:
        """Put every clean model through the search, against the others.

        The result can serve many suspects; they are then inspected on the same probes.

        Raises:
            InputError: no clean model, models of different architectures, or of another
                number of classes than the data.
        """
        if not clean:
            raise InputError("bias maps need at least one clean model to compare with")
        self._check(clean, data)
        halves = Halves.split(data, rng)
        search = self._search(data, halves)
        maps = []
        for index, model in enumerate(clean):
            tell(progress, index, 2 * len(clean), "maps of clean models")
            maps.append(self._shift_maps(model, data, rng, halves))
        shifts = torch.stack([m.shift for m in maps])
        null = []
        for index, model in enumerate(clean if len(clean) >= MIN_CLEAN else ()):
            tell(progress, len(clean) + index, 2 * len(clean), "search in clean models")
            others = [j for j in range(len(clean)) if j != index]
            with model.frozen():
                found, _, _ = search.run(
                    model, maps[index], [clean[j] for j in others], shifts[others]
                )
            null.append(found[0].excess)
        return CleanSide(tuple(clean), tuple(maps), tuple(null), rng.initial_seed())

    def inspect(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        reference: Classifier | Sequence[Classifier] | CleanSide | None = None,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Verdict:
        """Judge a model.

        Args:
            data: clean labelled images that the model was not trained on.
            reference: clean models of the suspect's architecture (the first is the one shown
                beside it), or a `CleanSide`. With fewer than `controls` of them, the rest is
                trained here on half of `data` and the other half is used to inspect: give
                models trained on a full training set (`train_controls`) for a better null.

        Raises:
            InputError: architectures differ, classes differ, or a class is too small.
        """
        if isinstance(reference, CleanSide):
            clean, shown = reference, True
            self._check([*clean.models, model], data)
        else:
            given = [reference] if isinstance(reference, Classifier) else list(reference or ())
            self._check([*given, model], data)
            shown = bool(given)
            models, data = self._complete(model, given, data, rng, progress)
            clean = self.calibrate(models, data, rng=rng, progress=progress)
        began, before = time.perf_counter(), (model.cost.queries, model.cost.gradients)
        rng = random.rng(clean.seed)
        halves = Halves.split(data, rng)
        search = self._search(data, halves)
        tell(progress, 0, 2, "maps of the suspect")
        with model.frozen():
            maps = self._shift_maps(model, data, rng, halves)
            shifts = torch.stack([m.shift for m in clean.maps])
            tell(progress, 1, 2, "search in the suspect")
            findings, energies, _ = search.run(model, maps, clean.models, shifts)
            grid, grid_pairs = self._grid(model, data, rng, halves, findings)
            evidence = Evidence(
                model=model,
                clean=clean,
                maps=maps,
                findings=findings,
                energies=energies,
                search=search,
                grid=grid,
                grid_pairs=grid_pairs,
                reference_given=shown,
            )
            verdict = conclude(evidence, self.alpha)
            if self.untargeted:
                verdict = self._untargeted(verdict, model, clean.models[0], data)
        cost = Cost(model.cost.queries - before[0], model.cost.gradients - before[1])
        return replace(verdict, cost=cost, seconds=time.perf_counter() - began)

    def _shift_maps(
        self, model: Classifier, data: ImageSet, rng: torch.Generator, halves: Halves
    ) -> MapSet:
        """Maps for the search: always targeted, since pairs of classes are compared."""
        targeted = replace(self, untargeted=False)
        return targeted.maps(model, data, rng=rng, rows=torch.cat(halves.search))

    def _untargeted(
        self, verdict: Verdict, model: Classifier, reference: Classifier, data: ImageSet
    ) -> Verdict:
        """The verdict with the maps and distances of the untargeted variant."""
        maps, others = (self.maps(m, data, rng=random.rng(0)) for m in (model, reference))
        distances = map_distances(maps, others)
        return replace(verdict, maps=maps, reference_maps=others, distances=distances)

    def _search(self, data: ImageSet, halves: Halves) -> Search:
        names = SearchSettings.__dataclass_fields__
        return Search(data, halves, SearchSettings(**{n: getattr(self, n) for n in names}))

    def _complete(
        self,
        model: Classifier,
        given: list[Classifier],
        data: ImageSet,
        rng: torch.Generator,
        progress: Progress | None,
    ) -> tuple[list[Classifier], ImageSet]:
        """Enough clean models, and the images left to inspect with."""
        missing = self.controls - len(given)
        if missing <= 0:
            return given, data
        halves = Halves.split(data, random.child(rng, "controls"))
        made = train_controls(
            model,
            data.subset(torch.cat(halves.search)),
            missing,
            epochs=self.control_epochs,
            rng=rng,
            progress=progress,
        )
        return [*given, *made], data.subset(torch.cat(halves.confirm))

    def _grid(
        self,
        model: Classifier,
        data: ImageSet,
        rng: torch.Generator,
        halves: Halves,
        findings: list[Finding],
    ) -> tuple[MapSet | None, tuple[tuple[int, int], ...]]:
        """Algorithm II's maps, for all pairs or for those tried."""
        if self.grid == "none":
            return None, ()
        tried = sorted({(f.source, f.target) for f in findings})
        every = [(s, t) for s in range(model.classes) for t in range(model.classes) if s != t]
        pairs = every if self.grid == "all" else tried
        child = random.child(rng, "grid")
        images = list(probes(self.probe, data, self.grid_samples, child, torch.cat(halves.search)))
        return algorithm_two(model, images, pairs, eps=self.eps, steps=self.steps), tuple(pairs)

    def _check(self, models: Sequence[Classifier], data: ImageSet) -> None:
        for model in models:
            if model.classes != data.classes:
                raise InputError(
                    f"the model has {model.classes} classes and the data {data.classes}: "
                    "inspect it with images of its own classes"
                )
        if not same_architecture(models):
            raise InputError(
                "suspect and clean models differ in architecture: bias maps compare like with "
                "like; give references trained with the suspect's own network"
            )
