"""White-noise analysis (Borji and Lin 2020): the same maps from labels alone, at a price."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.classifier import Cost, Oracle
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import Inspector, MapSet, Progress, map_distances
from mithridate.errors import check_number

CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class NoiseVerdict:
    """Noise maps of suspect and reference, and what they cost. No p-value: see `note`."""

    maps: MapSet
    reference_maps: MapSet | None
    distances: Tensor
    queries: int
    seconds: float
    note: str


@dataclass(frozen=True, kw_only=True)
class WhiteNoise(Inspector):
    """Average uniform noise images by the label that the model gives them (section 2.1).

    The black-box baseline of bias maps: it needs labels only and no gradient, but a class
    gets a sharp map only after very many of its noise images, and a model that gives all
    noise the same label shows one map and no other.

    Args:
        queries: noise images in all; the paper uses millions.

    Raises:
        InputError: queries below 1.

    >>> WhiteNoise(queries=1000).queries
    1000
    """

    queries: int = 100_000

    def __post_init__(self) -> None:
        check_number("queries", self.queries, low=1)

    def maps(self, model: Oracle, data: ImageSet, *, rng: torch.Generator) -> MapSet:
        """The average noise image per label, with memory constant in `queries`."""
        total = torch.zeros(model.classes, *data.image_shape, dtype=torch.float64)
        count = torch.zeros(model.classes, dtype=torch.float64)
        for at in range(0, self.queries, CHUNK):
            size = min(CHUNK, self.queries - at)
            child = random.child(rng, "white-noise", at)
            x = torch.rand(size, *data.image_shape, generator=child)
            labels = model.labels(x).cpu()
            total.index_add_(0, labels, x.double())
            count.index_add_(0, labels, torch.ones(size, dtype=torch.float64))
        divisor = torch.where(count > 0, count, torch.nan)[:, None, None, None]
        mean = (total / divisor).float()
        return MapSet(mean=mean, count=count.float(), shift=mean - 0.5, cost=Cost(self.queries, 0))

    def inspect(
        self,
        model: Oracle,
        data: ImageSet,
        *,
        reference: Oracle | None = None,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> NoiseVerdict:
        """Maps of both models and their distance per class, NaN where one has no image."""
        began = time.perf_counter()
        maps = self.maps(model, data, rng=rng)
        other = None if reference is None else self.maps(reference, data, rng=rng)
        nothing = torch.full((model.classes,), torch.nan)
        seen = int((maps.count > 0).sum())
        return NoiseVerdict(
            maps=maps,
            reference_maps=other,
            distances=nothing if other is None else map_distances(maps, other),
            queries=self.queries * (1 if other is None else 2),
            seconds=time.perf_counter() - began,
            note=f"noise was given {seen} of {model.classes} labels; the rest have no map",
        )
