"""White-noise analysis (Borji and Lin 2020): the same maps from labels alone, at a price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from mithridate import rng as random
from mithridate.classifier import Oracle
from mithridate.component import About
from mithridate.cost import Cost, Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import Comparison, Evidence, Inspector, Look, Progress
from mithridate.defenses.inspect.maps import MapSet, map_distances
from mithridate.doubts import Doubt
from mithridate.errors import check_number

CHUNK = 4096


@final
@dataclass(frozen=True, kw_only=True)
class WhiteNoise(Inspector):
    """Average uniform noise images by the label that the model gives them (section 2.1).

    The black-box baseline of bias maps: it needs labels only and no gradient, but a class
    gets a sharp map only after very many of its noise images, and a model that gives all
    noise the same label shows one map and no other.

    Deviation from the paper, which looks at the maps: the statistic is the largest distance of
    a class's maps from the first clean model's. `compare` gives it beside one model, without
    the clean models that a p-value needs.

    Args:
        queries: noise images in all; the paper uses millions.
        controls, control_epochs, alpha: as of every `Inspector`.

    Raises:
        InputError: queries below 1.

    >>> WhiteNoise(queries=1000).queries
    1000
    """

    about: ClassVar[About] = About(
        paper="Borji and Lin 2020, section 2.1",
        access=("label",),
        needs=("clean models",),
        atlas=("AML.M0008",),
        nist=("023",),
    )
    statistic: ClassVar[str] = "Largest distance of a class's noise map from the clean model's"

    queries: int = 100_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("queries", self.queries, low=1)

    def cost(self, sizes: Sizes) -> Work:
        """Noise images, whatever the data."""
        return self.look_cost(sizes)

    def look_cost(self, sizes: Sizes) -> Work:
        """All of it."""
        return Work(forwards=self.queries)

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

    def look(
        self,
        model: Oracle,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Look:
        """The maps."""
        return self.maps(model, data, rng=rng).tensors()

    def score(
        self,
        model: Oracle,
        data: ImageSet,
        *,
        clean: Comparison,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Evidence:
        """The largest distance of the maps, class by class, to those of the first clean model.

        0, and no target, where no class has a map of both, or there is no clean model.
        """
        maps = MapSet.of(clean.own)
        distances = torch.full((model.classes,), torch.nan)
        pictures = {"noise_maps_suspect": maps.mean, "noise_map_share_suspect": maps.share}
        if clean.looks:
            reference = MapSet.of(clean.looks[0])
            distances = map_distances(maps, reference)
            pictures["noise_maps_reference"] = reference.mean
            pictures["noise_map_share_reference"] = reference.share
        order = distances.nan_to_num(-1).argsort(descending=True, stable=True).tolist()
        apart = not bool(distances[order[0]].isnan())
        return Evidence(
            statistic=float(distances[order[0]]) if apart else 0.0,
            target=order[0] if apart else None,
            ranking=tuple((k, float(distances[k])) for k in order),
            pictures={**pictures, "distances": distances},
            doubts=_doubts(maps),
        )


def _doubts(maps: MapSet) -> tuple[Doubt, ...]:
    seen, classes = int((maps.count > 0).sum()), len(maps.count)
    if seen == classes:
        return ()
    text = f"noise was given {seen} of {classes} labels; the rest have no map"
    return (Doubt("unseen-labels", text),)
