"""The ensemble: several inspectors, and what their scores were for models of a known kind."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from mithridate import component
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
    ranked,
    tell,
)
from mithridate.defenses.inspect.student import COPIES, EPOCHS, MOST, double
from mithridate.doubts import Doubt
from mithridate.metrics.outliers import standing_out, together, unexplained

FILE = "calibration.json"
FAR = 1.0
"""Deviations beyond the zoo's own range from which on a score is outside of it."""
WIDE = (0.1, 0.9)
"""Bounds of the probability for a suspect unlike those that were calibrated on."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the scores of a zoo of clean and poisoned models make of a suspect's.

    Attributes:
        version: of the file.
        members: (name, settings) of the inspectors, in order.
        inputs: (member's place, name among its `scores`), in order.
        centre, spread: of each `squashed` input over the clean models that were calibrated on.
        low, high: the range of each over all models that were calibrated on.
        weights, bias: of the logistic regression on the standardised inputs; no weight is below
            0, as every input is higher for more suspicious models.
        clean: log-odds of the clean models that were calibrated on, ascending.
        threshold: probability from which on there is an alarm.
        measured: how it did on models that were not calibrated on, for pages.
        shapes: image shapes calibrated on; classes, images: and the fewest images of each class.
    """

    version: int
    members: tuple[tuple[str, Mapping[str, Any]], ...]
    inputs: tuple[tuple[int, str], ...]
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    clean: tuple[float, ...]
    threshold: float
    measured: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    classes: int
    images: int

    @staticmethod
    def of(values: Mapping[str, Any]) -> Calibration:
        """From what a JSON file holds."""
        listed: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        for name in ("members", "inputs", "shapes"):
            listed[name] = tuple(tuple(one) for one in values[name])
        return Calibration(**listed)

    def standard(self, scores: Sequence[float]) -> list[float]:
        """In deviations of clean models, within the range that was calibrated on."""
        return [
            (min(max(squashed(score), low), high) - centre) / spread
            for score, low, high, centre, spread in zip(
                scores, self.low, self.high, self.centre, self.spread, strict=True
            )
        ]

    def log_odds(self, scores: Sequence[float]) -> float:
        """Of being poisoned, at even odds before."""
        return self.bias + sum(
            weight * value
            for weight, value in zip(self.weights, self.standard(scores), strict=True)
        )

    def probability(self, log_odds: float) -> float:
        """At even odds; never nearer to 0 or 1 than one more model could have moved it."""
        known = self.measured.get("calibrated on", {})
        least = 1 / (2 + sum(known.values()) if known else 4)
        return min(max(1 / (1 + math.exp(-log_odds)), least), 1 - least)

    def p_value(self, log_odds: float) -> float:
        """The conformal one: the share of clean models, the suspect among them, at least so high.

        Theirs are of fits that left them out; the inputs were chosen with them, so that it is a
        little too small.
        """
        above = sum(value >= log_odds for value in self.clean)
        return (1 + above) / (1 + len(self.clean))

    def in_words(self) -> str:
        """How often such a verdict was wrong, by the models that were tested once."""
        known = self.measured
        if "test" not in known:
            return "What the probability means: it was calibrated on a zoo of networks."
        clean, alarms, poisoned, missed = (
            known["test"][key] for key in ("clean", "false alarms", "poisoned", "missed")
        )
        return (
            f"How often such a verdict is wrong: of {clean} clean networks that nothing was tuned "
            f"on, {alarms} were called poisoned; of {poisoned} poisoned ones {missed} were missed "
            "(small networks of ten classes, MNIST)."
        )

    def outside(self, scores: Sequence[float]) -> float:
        """By how many deviations the farthest score lies outside of the range calibrated on."""
        return max(
            max(low - squashed(score), squashed(score) - high, 0.0) / spread
            for score, low, high, spread in zip(
                scores, self.low, self.high, self.spread, strict=True
            )
        )


def squashed(score: float) -> float:
    """The logarithm of 1 + s, odd about 0: scores have long tails.

    >>> squashed(0.0), round(squashed(-1.0), 4)
    (0.0, -0.6931)
    """
    return math.copysign(math.log1p(abs(score)), score)


@lru_cache
def shipped() -> Calibration:
    """The calibration that comes with this version."""
    text = resources.files(__package__).joinpath(FILE).read_text()
    return Calibration.of(json.loads(text))


@final
@dataclass(frozen=True, kw_only=True)
class Ensemble(Inspector):
    """Several inspectors at once, and one probability, without any reference model.

    Each member looks at the suspect, and at a clean double of it: a fresh network that was taught
    by the suspect on clean images (`student.double`), and so knows all of it but a trigger. Its
    scores are put beside those that a zoo of clean and poisoned networks gave
    (`docs/results/zoo.txt`): standardised by the clean ones, added up by a logistic regression
    whose weights are not negative, and turned into a probability at even odds. Beside it stands
    the conformal p-value: the share of the zoo's clean models with scores at least as high.

    Where images or classes are not like the zoo's (another size, another number of classes, fewer
    images), there is a doubt, a probability of 0.1 to 0.9, and no verdict: on colour images clean
    networks scored as poisoned ones do. A score outside of the zoo's range is a doubt too.

    Args:
        controls, control_epochs: unused: the zoo is the clean side.
        alpha: unused; the zoo's threshold decides.

    >>> Ensemble().controls
    0
    """

    about: ClassVar[About] = About(
        paper="none: the project's own, its members name their papers",
        access=("gradient",),
        needs=("clean images",),
        atlas=("AML.M0008",),
        nist=("023",),
    )
    version: ClassVar[int] = 2
    statistic: ClassVar[str] = "Log-odds of being poisoned, beside the zoo's clean models"

    controls: int = 0

    def members(self) -> list[Inspector]:
        """The inspectors that the shipped calibration is of."""
        return [
            component.create("inspectors", name, dict(settings))
            for name, settings in shipped().members
        ]

    def shown(self, data: ImageSet, rng: torch.Generator) -> ImageSet:
        """As many images of each class as the zoo's models were judged by, where there are so many.

        With more of them the double would be a better one, and scores would mean something else.
        They are of the half that is searched on, so that what a change does is measured on others,
        but where that half is too small.
        """
        halves = Halves.split(data, rng)
        rows = [
            torch.cat(both)[: shipped().images]
            for both in zip(halves.search, halves.confirm, strict=True)
        ]
        return data.subset(torch.cat(rows))

    def cost(self, sizes: Sizes) -> Work:
        """Of all members."""
        sizes = sizes._replace(test=min(sizes.test, shipped().images * sizes.classes))
        works = [one.cost(sizes) for one in self.members()]
        shown = min(MOST, COPIES * sizes.test)
        return Work(
            forwards=2 * sum(work.forwards for work in works) + shown,
            gradients=2 * sum(work.gradients for work in works),
            trained=EPOCHS * shown,
        )

    def look(self, model: Classifier, data: ImageSet, *, rng: torch.Generator) -> Look:
        """The members' looks at the suspect and at its clean double, each under its place."""
        data = self.shown(data, rng)
        clean = double(model, data, rng=rng)
        looks: dict[str, Tensor] = {}
        for place, one in enumerate(self.members()):
            for who, looked in (("own", model), ("double", clean)):
                found = one.look(looked, data, rng=rng)
                looks |= {f"{place}/{who}/{name}": tensor for name, tensor in found.items()}
        return looks

    def look_cost(self, sizes: Sizes) -> Work:
        """All of it."""
        return self.cost(sizes)

    def score(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        clean: Comparison,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Evidence:
        """The log-odds and the probability; the pair that all tables name, and its change.

        The change and the pictures are of the member that weighs most among those that have any.
        """
        calibration, members = shipped(), self.members()
        found, looks = [], []
        for place, one in enumerate(members):
            tell(progress, place, len(members), component.name_of(one))
            own, beside = (
                {
                    name.rpartition("/")[2]: tensor
                    for name, tensor in clean.own.items()
                    if name.startswith(f"{place}/{who}/")
                }
                for who in ("own", "double")
            )
            looks.append(own)
            alone = Comparison(models=(), looks=(beside,), own=own)
            found.append(one.score(model, data, clean=alone, rng=rng))
        scores = [found[place].scores[name] for place, name in calibration.inputs]
        weighed = [0.0] * len(found)
        for (place, _), weight, value in zip(
            calibration.inputs, calibration.weights, calibration.standard(scores), strict=True
        ):
            weighed[place] += weight * value
        order = sorted(range(len(found)), key=lambda place: -weighed[place])
        tables = [one.pictures["pair_scores"] for one in found]
        free, (source, target) = named(tables, looks[0]["apart"])
        proposals = [
            one.proposed(look, source, target, data.image_shape)
            for one, look in zip(members, looks, strict=True)
        ]
        lead = next((place for place in order if proposals[place]), order[0])
        odds = calibration.log_odds(scores)
        probability = calibration.probability(odds)
        unlike = differences(calibration, data)
        doubts = self._doubts(unlike, calibration.outside(scores))
        if doubts:
            probability = min(max(probability, WIDE[0]), WIDE[1])
        best = found[lead]
        names = [component.name_of(one) for one in members]
        return Evidence(
            statistic=odds,
            scores={
                f"{names[p]}/{name}": s
                for (p, name), s in zip(calibration.inputs, scores, strict=True)
            },
            probability=probability,
            p_value=calibration.p_value(odds),
            threshold=None if unlike else calibration.threshold,
            null=calibration.in_words(),
            null_values=calibration.clean,
            source=source,
            target=target,
            **proposals[lead],
            ranking=ranked(free),
            pictures=best.pictures,
            parts=tuple(zip(names, found, strict=True)),
            doubts=(*doubts, *best.doubts),
        )

    def _doubts(self, unlike: Sequence[str], far: float) -> list[Doubt]:
        """Where the suspect is unlike the zoo's models."""
        if far > FAR:
            more = f"a score {far:.1f} deviations outside of the range of its models"
            unlike = [*unlike, more]
        if not unlike:
            return []
        text = (
            f"the suspect is unlike the models that this was calibrated on ({'; '.join(unlike)}): "
            f"the probability is held within {WIDE[0]:g} to {WIDE[1]:g}"
        )
        return [Doubt("outside-calibration", text)]


def named(tables: Sequence[Tensor], apart: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """All members' tables of pairs together, less what lies in the classes, and what stands out.

    Args:
        tables: of pairs (K, K), higher for more suspicious ones.
        apart: how far the classes' images lie from each other, (K, K).

    Returns:
        The table, and (source, target).
    """
    free = together([unexplained(table, apart.log()) for table in tables])
    return free, standing_out(free)


def differences(calibration: Calibration, data: ImageSet) -> list[str]:
    """In what the images and classes are not those that were calibrated on; empty: in nothing."""
    unlike = []
    if data.classes != calibration.classes:
        unlike.append(f"{data.classes} classes, not {calibration.classes}")
    shape = tuple(data.image_shape)
    if shape not in calibration.shapes:
        unlike.append(f"images of {' x '.join(map(str, shape))}")
    fewest = int(torch.bincount(data.labels, minlength=data.classes).min())
    if fewest < calibration.images:
        unlike.append(f"{fewest} images of a class, where {calibration.images} were had")
    return unlike


def calibrated_for(data: ImageSet) -> bool:
    """Whether `Ensemble` gives a verdict on models of such images."""
    return not differences(shipped(), data)
