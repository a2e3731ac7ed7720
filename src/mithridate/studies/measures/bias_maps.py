"""Bias maps as in Borji 2020: a suspect's beside a clean model's, and how far they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.defenses.inspect import MapSet, map_distances
from mithridate.poisons import Poisoned
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.measures.base import Measure, row, write_pictures
from mithridate.studies.parts import number, numbers
from mithridate.studies.subject import Subject
from mithridate.studies.units.data import Data
from mithridate.studies.units.inspected import Maps, pairs


class Settings(Subject):
    """A suspect, a reference, and the settings of the maps.

    Attributes:
        algorithm: 1 (maps per class) or 2 (maps per pair of classes).
        probe, eps, steps, samples: as in the paper; samples are per class, or per pair.
        reference: the suspect's own clean parent, or another clean model.
        control_seed: of that other clean model.
        maps_seed: of the probes.
    """

    algorithm: Literal[1, 2] = 1
    probe: Literal["blank", "noise", "data"] = "data"
    eps: float = Field(default=0.1, gt=0, le=1)
    steps: int = Field(default=10, ge=1)
    samples: int = Field(default=1000, ge=1)
    reference: Literal["parent", "other"] = "parent"
    control_seed: int = Field(default=1000, ge=0)
    maps_seed: int = Field(default=1, ge=0)


class BiasMapsMeasure(Measure):
    """Distances of maps, class by class, beside those between two clean models."""

    settings = Settings
    columns: ClassVar = {
        "largest": {"title": "Largest distance"},
        "clean_largest": {"title": "Largest, clean to clean"},
        "target_rank": {"title": "Rank of the target"},
        "source_rank": {"title": "Rank of the source"},
        "first": {"title": "Target or source first", "unit": "flag"},
    }
    views: ClassVar = [
        {"kind": "table"},
        {"kind": "classes", "value": "distances", "reference": "clean_distances"},
        {"kind": "pictures", "arrays": ["maps_suspect", "maps_reference"]},
    ]

    def unit(self, settings: Settings) -> Unit[Any]:
        """The comparison, over maps that are units of their own."""
        other = settings.clean_model(settings.control_seed, ("control", "0"))
        further = settings.clean_model(settings.control_seed, ("control", "1"))
        parent = settings.clean_model() if settings.reference == "parent" else other
        clean = other if settings.reference == "parent" else further

        def maps(model: Unit[Classifier]) -> Maps:
            return Maps(
                model=model,
                data=settings.data_unit,
                algorithm=settings.algorithm,
                probe=settings.probe,
                eps=settings.eps,
                steps=settings.steps,
                samples=settings.samples,
                seed=settings.maps_seed,
                **settings.place,
            )

        return Compared(
            suspect=maps(settings.bare()),
            reference=maps(parent),
            clean=maps(clean),
            data=settings.data_unit,
            poisoned=settings.poisoned(),
            algorithm=settings.algorithm,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared(Unit[Mapping[str, Any]]):
    """The maps of `suspect`, `reference` and `clean`, compared."""

    kind: ClassVar = "bias-maps"

    suspect: Maps
    reference: Maps
    clean: Maps
    data: Data
    poisoned: Unit[Poisoned] | None
    algorithm: Literal[1, 2]

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        """Distances and ranks, and the maps for the report."""
        suspect, reference, clean = (get(m) for m in (self.suspect, self.reference, self.clean))
        distances, apart = map_distances(suspect, reference), map_distances(clean, reference)
        if self.algorithm == 1:
            arrays = {
                "maps_suspect": suspect.mean,
                "map_share_suspect": suspect.share,
                "maps_reference": reference.mean,
                "map_share_reference": reference.share,
            }
        else:
            arrays = {
                "pair_maps_suspect": grid(suspect),
                "pair_maps_reference": grid(reference),
            }
            distances, apart = by_target(distances), by_target(apart)
        write_pictures(folder, arrays)
        poisoned = None if self.poisoned is None else get(self.poisoned)
        source, target = (None, None) if poisoned is None else (poisoned.source, poisoned.target)
        values: dict[str, Any] = {
            "distances": numbers(distances),
            "clean_distances": numbers(apart),
            "largest": number(distances.nan_to_num(0).max()),
            "clean_largest": number(apart.nan_to_num(0).max()),
            "source": source,
            "target": target,
        }
        if target is not None:
            order = distances.nan_to_num(-1).argsort(descending=True).tolist()
            values["target_rank"] = 1 + order.index(target)
            values["source_rank"] = None if source is None else 1 + order.index(source)
            values["first"] = order[0] in (source, target)
        return row(values, [], get(self.data).test)


def grid(maps: MapSet) -> Tensor:
    """Algorithm II's maps by source and target, (K, K, C, H, W); NaN on the diagonal."""
    classes = classes_of(len(maps.mean))
    out = torch.full((classes, classes, *maps.mean.shape[1:]), torch.nan)
    for (source, target), image in zip(pairs(classes), maps.mean, strict=True):
        out[source, target] = image
    return out


def by_target(values: Tensor) -> Tensor:
    """A value per pair as the mean over each target's sources, (K,).

    >>> by_target(torch.tensor([1.0, 2.0]))
    tensor([2., 1.])
    """
    classes = classes_of(len(values))
    targets = torch.tensor([target for _, target in pairs(classes)])
    return torch.stack([values[targets == k].nanmean() for k in range(classes)])


def classes_of(count: int) -> int:
    """How many classes have so many ordered pairs.

    >>> classes_of(90)
    10
    """
    return round((1 + math.sqrt(1 + 4 * count)) / 2)
