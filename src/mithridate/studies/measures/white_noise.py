"""White noise: the black-box comparison that bias maps replace, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from mithridate.classifier import Classifier
from mithridate.component import Choice
from mithridate.cost import Sizes, Work
from mithridate.defenses.inspect import Inspector
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.measures import inspection
from mithridate.studies.measures.base import Measure, row
from mithridate.studies.parts import numbers
from mithridate.studies.units.data import Data


class Settings(inspection.Settings):
    """A model and its reference: the first clean model of the inspection.

    Attributes:
        noise_queries: noise images for each of the two.
        noise_seed, noise_stream: of these.
    """

    noise_queries: int = Field(default=100_000, ge=1)
    noise_seed: int = Field(default=0, ge=0)
    noise_stream: tuple[str, ...] = ()


class WhiteNoiseMeasure(Measure):
    """Distance of the noise maps of two models, class by class."""

    settings = Settings
    columns: ClassVar = {
        "queries": {"title": "Images asked"},
        "note": {"title": "What was seen", "unit": "text"},
    }
    views: ClassVar = [{"kind": "table"}, {"kind": "classes", "value": "distances"}]

    def unit(self, settings: Settings) -> Unit[Any]:
        """One unit."""
        queries = {"queries": settings.noise_queries}
        return NoiseCompared(
            model=settings.bare(),
            reference=settings.clean_models()[0],
            data=settings.data_unit,
            inspector=Choice("inspectors", "white-noise", queries),
            seed=settings.noise_seed,
            stream=settings.noise_stream,
            **settings.place,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseCompared(Unit[Mapping[str, Any]]):
    """The noise maps of `model` beside those of `reference`."""

    kind: ClassVar = "white-noise"

    model: Unit[Classifier]
    reference: Unit[Classifier]
    data: Data
    inspector: Choice
    seed: int
    stream: tuple[str, ...]

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        test, inspector = get(self.data).test, self.inspector.make()
        assert isinstance(inspector, Inspector)
        evidence = inspector.compare(
            get(self.model),
            test,
            reference=get(self.reference),
            rng=child(rng(self.seed), *self.stream) if self.stream else rng(self.seed),
            progress=tell,
        )
        values = {
            "distances": numbers(evidence.pictures["distances"]),
            "queries": evidence.cost.queries,
            "note": "; ".join(doubt.text for doubt in evidence.doubts),
        }
        return row(values, [], test)

    def work(self, sizes: Sizes) -> Work:
        work: Work = self.inspector.make().cost(sizes)
        return work._replace(forwards=2 * work.forwards)
