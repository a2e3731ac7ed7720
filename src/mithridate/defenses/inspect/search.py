"""One model against the clean ones: the best stamp that fools it and leaves them alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import Box, MapSet
from mithridate.defenses.inspect.locate import locate
from mithridate.defenses.inspect.stamp import (
    Candidate,
    dilate,
    grow,
    lead,
    shortlist,
    stamp,
    standardise,
)
from mithridate.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How the search is done; the fields are those of `BiasMaps`."""

    window: float
    classes: int
    pairs: int
    images: int
    grow_eps: float
    grow_steps: int


@dataclass(frozen=True)
class Halves:
    """Rows of each class, in two disjoint halves: to search on, and to confirm on."""

    search: tuple[Tensor, ...]
    confirm: tuple[Tensor, ...]

    @staticmethod
    def split(data: ImageSet, rng: torch.Generator) -> Halves:
        """Shuffle and halve each class.

        Raises:
            InputError: a class with fewer than 2 images.
        """
        search, confirm = [], []
        for label in range(data.classes):
            rows = (data.labels == label).nonzero()[:, 0]
            if len(rows) < 2:
                raise InputError(
                    f"class {data.class_names[label]} has {len(rows)} image(s): bias maps need "
                    "at least 2 of each class, one to search on and one to confirm on"
                )
            child = random.child(rng, "halves", label)
            rows = rows[torch.randperm(len(rows), generator=child)]
            search.append(rows[: len(rows) // 2])
            confirm.append(rows[len(rows) // 2 :])
        return Halves(tuple(search), tuple(confirm))


@dataclass(frozen=True)
class Finding:
    """A stamped pattern and what it does.

    `excess` is the statistic: logits by which the target leads on stamped held-out source
    images, in the suspect beyond the mean of the clean models.
    """

    source: int
    target: int
    window: Box
    pattern: Tensor
    excess: float
    energy: float


class Search:
    """The images that a search needs, fetched once and shared by all models."""

    def __init__(self, data: ImageSet, halves: Halves, settings: SearchSettings) -> None:
        self.data = data
        self.halves = halves
        self.settings = settings
        height, width = data.image_shape[1:]
        self.side = max(2, min(height, width, math.ceil(settings.window * min(height, width))))

    def images(self, label: int, confirm: bool, device: torch.device, times: int = 1) -> Tensor:
        """Source images of one half, at most `times * settings.images`."""
        rows = (self.halves.confirm if confirm else self.halves.search)[label]
        return self.data.batch(rows[: times * self.settings.images])[0].to(device)

    def run(
        self, model: Classifier, maps: MapSet, clean: Sequence[Classifier], shifts: Tensor
    ) -> tuple[list[Finding], Tensor, Tensor]:
        """All candidates, best first, with the pair energies and the standardised shifts."""
        z = standardise(maps.shift, shifts)
        candidates, energies = shortlist(
            z, side=self.side, classes=self.settings.classes, pairs=self.settings.pairs
        )
        findings = [self._try(model, candidate, clean) for candidate in candidates]
        findings.sort(key=lambda f: -f.excess)
        return findings, energies, z

    def _try(self, model: Classifier, candidate: Candidate, clean: Sequence[Classifier]) -> Finding:
        pattern = self._grow(model, candidate, candidate.window)
        suspect, others = self._leads(model, clean, candidate.source, candidate.target, pattern)
        excess = suspect - others
        return Finding(
            candidate.source,
            candidate.target,
            candidate.window,
            pattern,
            excess,
            candidate.energy,
        )

    def _grow(self, model: Classifier, pair: Candidate | Finding, box: Box) -> Tensor:
        images = self.images(pair.source, False, model.device)
        eps, steps = self.settings.grow_eps, self.settings.grow_steps
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
        self, model: Classifier, finding: Finding, clean: Sequence[Classifier]
    ) -> Finding:
        """The finding with the source that its pattern takes to the target best.

        A planted trigger also works on other classes, and where clean models are far from
        the target the excess is large by itself. So each class is stamped with the pattern
        and scored by the suspect's own lead plus its excess; the statistic stays as it was.
        """
        _, pattern = self.locate(model, finding, clean)
        sources = [s for s in range(self.data.classes) if s != finding.target]

        def score(source: int) -> float:
            suspect, others = self._leads(model, clean, source, finding.target, pattern)
            return suspect + (suspect - others)

        return replace(finding, source=max(sources, key=score))

    def locate(
        self, model: Classifier, finding: Finding, clean: Sequence[Classifier]
    ) -> tuple[Box, Tensor]:
        """The region of the trigger, and the pattern grown in it.

        The window is widened by half its side, since it need not hold all of the trigger.
        """
        height, width = self.data.image_shape[1:]
        wide = dilate(finding.window, max(1, self.side // 2), height, width)
        images = self.images(finding.source, False, model.device, times=2)
        region = locate(model, clean, images, finding.source, finding.target, wide)
        return region, self._grow(model, finding, region)
