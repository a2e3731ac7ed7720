"""Inspectors propose; here it is certified: calibrated, located, stamped and measured."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from scipy.special import bdtr
from torch import Tensor, nn

from mithridate import component
from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.cost import Cost
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import (
    Box,
    Change,
    Comparison,
    Evidence,
    Halves,
    Inspector,
    Laid,
    Look,
    Progress,
    measured,
    same_architecture,
    tell,
)
from mithridate.defenses.inspect.controls import train_controls
from mithridate.defenses.inspect.null import MIN_CLEAN, predictive_p, same_population_p
from mithridate.doubts import Doubt
from mithridate.errors import InputError, NothingAssessedError, RunError
from mithridate.metrics import Interval, wilson
from mithridate.networks.checkpoint import fingerprint
from mithridate.networks.fitting import check_set, classifier_for
from mithridate.poisons import bounding_box
from mithridate.rng import Random, as_generator
from mithridate.training import predict

CHANCE = 1e-3
"""p-value at which a model is better than chance."""
FEW_CONTROLS = 6
FEW_IMAGES = 20
ANOTHER = 0.05
"""Chance, by accuracy, below which the suspect is not of the clean models' population."""
LOOKED_AT = 2000
"""Images on which accuracies are compared, at most."""
CHUNK = 1024
KIND_IMAGES = 50
"""Held-out images of each class that the kind of a backdoor is told by."""
MOST, SEVERAL = 0.5, 0.6
"""Share of a class's images that a change leads elsewhere, and share of the classes."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Verdict:
    """Whether a model was poisoned, how sure that is, and on what it rests.

    Where several inspectors were asked, all but `p_value`, `doubts`, `evidence`, `cost` and
    `seconds` is that of the one with the smallest p-value, of those that can tell.

    Attributes:
        suspicious: whether p_value is at most alpha; None where no null could be calibrated, or
            the suspect's accuracy is not that of the clean models.
        probability: that the model is poisoned, at even odds before; None where the inspectors
            were not calibrated over many models of a known kind.
        threshold: the probability from which on there is an alarm, where it decides; `alpha` does
            not, then.
        p_value: probability of a statistic at least this large for a clean model, multiplied
            by the number of inspectors (Bonferroni).
        kind: "one to one", "all to one" or "all to all": what the recovered change does to held
            out images of every class; None without an alarm, or where it does too little.
        target, source: the class that images are sent to, and the class they are taken from,
            of the most suspect pair, whatever the verdict.
        region: (top, left, bottom, right), half-open, where the trigger sits; None without an
            alarm.
        trigger: (C, H, W) recovered pattern, NaN where transparent; None without an alarm.
        change: what the trigger does to images, where an inspector says so.
        recovered_asr: share of held-out source images that the pattern, stamped here, sends to
            the target; without a source, of the held-out images of all other classes.
        headline, null: the verdict, and what the null hypothesis is and how it was calibrated,
            in words.
        statistic, null_values: the suspect's, and those of the clean models.
        ranking: (class, score), most suspect first; NaN for a class that was not tested.
        evidence: (inspector's name, what it proposed).
        cost: of the suspect's inspection.
        seconds: of everything, the clean side's training and calibration too.
    """

    suspicious: bool | None
    probability: float | None = None
    threshold: float | None = None
    p_value: float | None
    alpha: float
    target: int | None
    source: int | None
    region: Box | None
    trigger: Tensor | None
    change: Change | None = field(default=None, repr=False)
    kind: str | None = None
    recovered_asr: Interval | None
    headline: str
    null: str
    statistic: float
    null_values: tuple[float, ...]
    ranking: tuple[tuple[int, float], ...]
    doubts: tuple[Doubt, ...]
    evidence: tuple[tuple[str, Evidence], ...]
    cost: Cost = field(default_factory=Cost)
    seconds: float = 0.0

    def __str__(self) -> str:
        """A line for each part of the verdict that there is."""
        lines = [self.headline]
        if self.probability is not None:
            lines.append(
                f"probability {self.probability:.2f} at even odds"
                + ("" if self.threshold is None else f" (alarm from {self.threshold:.2f})")
            )
        if self.p_value is not None and self.null_values:
            low, high = min(self.null_values), max(self.null_values)
            level = f" (alpha {self.alpha:g})" if self.probability is None else ""
            lines.append(
                f"p {self.p_value:.2g}{level}: statistic {self.statistic:.3g}, "
                f"of {len(self.null_values)} clean models {low:.3g} to {high:.3g}"
            )
        if self.region is not None:
            lines.append(f"region (top, left, bottom, right): {self.region}")
        if self.recovered_asr is not None:
            lines.append(f"recovered trigger, success on held-out images: {self.recovered_asr}")
        if self.doubts:
            lines.append("doubts: " + "; ".join(doubt.text for doubt in self.doubts))
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """In a notebook the lines, not the figures."""
        printer.text(str(self))

    def __repr__(self) -> str:
        """The figures, without the pictures."""
        names = ("suspicious", "probability", "p_value", "source", "target", "region", "statistic")
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        inspectors = ", ".join(name for name, _ in self.evidence)
        return f"Verdict({values}, by {inspectors})"


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibrated:
    """What one inspector saw of the clean models.

    Attributes:
        name, settings: the inspector's; another one's null would be no null.
        looks: what its `look` returned for each clean model.
        null_values: the statistic of each clean model beside the others; none where there are
            fewer than three models.
    """

    name: str
    settings: Mapping[str, Any]
    looks: tuple[Look, ...]
    null_values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class CleanSide:
    """Clean models, and what inspectors made of them; serves any number of suspects.

    Attributes:
        models: all of one architecture.
        parts: one for each inspector, in order.
        seed: of the generator; suspects are inspected with the same.
        right: images of the data, `LOOKED_AT` at most, that each model gets right.
        seconds: that calibrating took, where it was done by this process.
    """

    models: tuple[Classifier, ...]
    parts: tuple[Calibrated, ...]
    seed: int
    right: tuple[int, ...]
    seconds: float = 0.0

    def values(self) -> dict[str, Any]:
        """All but models and tensors, as JSON holds it."""
        parts = [
            {
                "name": part.name,
                "settings": dict(part.settings),
                "null_values": list(part.null_values),
            }
            for part in self.parts
        ]
        return {"seed": self.seed, "inspectors": parts, "right": list(self.right)}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of all looks, as a safetensors file holds them."""
        return {
            f"{place}.{model}.{name}": tensor
            for place, part in enumerate(self.parts)
            for model, look in enumerate(part.looks)
            for name, tensor in look.items()
        }

    @staticmethod
    def of(
        models: Sequence[Classifier], values: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> CleanSide:
        """The clean side that gave these `values()` and `tensors()`, with its models."""
        looks: list[list[dict[str, Tensor]]] = [[{} for _ in models] for _ in values["inspectors"]]
        for key, tensor in tensors.items():
            place, model, name = key.split(".", 2)
            looks[int(place)][int(model)][name] = tensor
        parts = [
            Calibrated(
                name=part["name"],
                settings=part["settings"],
                looks=tuple(own),
                null_values=tuple(part["null_values"]),
            )
            for part, own in zip(values["inspectors"], looks, strict=True)
        ]
        return CleanSide(
            models=tuple(models),
            parts=tuple(parts),
            seed=int(values["seed"]),
            right=tuple(values["right"]),
        )


@torch.inference_mode(False)
def calibrate(
    inspectors: Sequence[Inspector],
    clean: Sequence[Classifier],
    data: ImageSet,
    *,
    rng: Random,
    looks: Sequence[Sequence[Look]] | None = None,
    progress: Progress | None = None,
) -> CleanSide:
    """Let every inspector score every clean model beside the others.

    The result can serve many suspects; they are then inspected on the same images, with the
    same seed.

    Args:
        looks: what each inspector's `look` returned for each clean model, if that is known.

    Raises:
        InputError: no inspector, models of different architectures or of another number of
            classes than the data, or none where an inspector needs some.
        NothingAssessedError: a statistic is not finite.
    """
    clean, rng = [classifier_for(m, data) for m in clean], as_generator(rng)
    began = time.perf_counter()
    _check(inspectors, clean, data)
    check_distinct(clean)
    total, done, parts = 2 * len(clean) * len(inspectors), 0, []
    for place, inspector in enumerate(inspectors):
        own: list[Look] = [] if looks is None else list(looks[place])
        for model in clean[len(own) :]:
            tell(progress, done, total, "looking at clean models")
            own.append(inspector.look(model, data, rng=rng))
            done += 1
        null = []
        for index, model in enumerate(clean if len(clean) >= MIN_CLEAN else ()):
            tell(progress, done, total, "scoring clean models")
            others = [j for j in range(len(clean)) if j != index]
            beside = Comparison(
                models=tuple(clean[j] for j in others),
                looks=tuple(own[j] for j in others),
                own=own[index],
            )
            with model.frozen():
                evidence = inspector.score(model, data, clean=beside, rng=rng)
            null.append(_checked(evidence, inspector, data).statistic)
            done += 1
        name, settings = component.name_of(inspector), _settings(inspector)
        parts.append(
            Calibrated(name=name, settings=settings, looks=tuple(own), null_values=tuple(null))
        )
    return CleanSide(
        models=tuple(clean),
        parts=tuple(parts),
        seed=rng.initial_seed(),
        right=tuple(_right(model, data) for model in clean),
        seconds=time.perf_counter() - began,
    )


def _right(model: Classifier, data: ImageSet) -> int:
    """How many of the first images, `LOOKED_AT` at most in even steps, it gets right."""
    rows = torch.arange(min(LOOKED_AT, len(data))) * len(data) // min(LOOKED_AT, len(data))
    return int((predict(model, data, rows=rows.tolist()) == data.labels[rows]).sum())


@torch.inference_mode(False)
def judge(
    inspectors: Sequence[Inspector],
    suspect: Classifier | nn.Module,
    data: ImageSet,
    *,
    reference: Classifier | nn.Module | Sequence[Classifier | nn.Module] | CleanSide | None = None,
    rng: Random,
    alpha: float | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Judge a model.

    Every inspector scores the suspect beside the clean models. Its p-value is Student's
    prediction from the clean models' own statistics (`predictive_p`); several inspectors are
    several chances of a false alarm, so the smallest p-value is multiplied by their number
    (Bonferroni). Where the suspect's accuracy on `data` is not that of the clean models, they
    are another population and their null is none of the suspect's: there is no p-value, no
    verdict, and a doubt that says so. After an alarm the inspector with the smallest p-value
    locates the trigger, which is then stamped on held-out images and measured here: no
    inspector's word is taken for it.

    Args:
        suspect: a classifier, or a bare module (logits of images in [0, 1]).
        data: clean labelled images that the model was not trained on.
        reference: clean models of the suspect's architecture (the first is the one shown beside
            it), or a `CleanSide`. With fewer than an inspector's `controls` of them, the rest
            is trained here on half of `data` and the other half is used to inspect: give models
            trained on a full training set (`train_controls`) for a better null.
        rng: a seed, or a seeded generator.
        alpha: significance level; the inspectors' own where not given, the smallest of them.

    Raises:
        InputError: architectures differ, classes differ, a class is too small, or the clean
            side was calibrated for other inspectors.
        NothingAssessedError: a statistic is not finite.
        RunError: an inspector proposes what cannot be (a class or a trigger of another kind).
    """
    alone, began, rng = False, time.perf_counter(), as_generator(rng)
    data = check_set("inspection", data)
    suspect = classifier_for(suspect, data)
    if isinstance(reference, CleanSide):
        side = reference
        _check(inspectors, [*side.models, suspect], data)
        _check_parts(inspectors, side)
    else:
        one = isinstance(reference, Classifier | nn.Module)
        several: Any = [reference] if one else list(reference or ())  # type: ignore[arg-type]
        given = [classifier_for(model, data) for model in several]
        _check(inspectors, [*given, suspect], data)
        alone = not given
        models, data = _complete(inspectors, suspect, given, data, rng, progress)
        side = calibrate(inspectors, models, data, rng=rng, progress=progress)
    earlier = side.seconds if isinstance(reference, CleanSide) else 0.0
    check_distinct(side.models, suspect)
    other = _other_population(suspect, side, data)
    if not side.models:
        other += _near_chance(suspect, data)
    rng = random.rng(side.seed)
    alpha = min(inspector.alpha for inspector in inspectors) if alpha is None else alpha
    with measured(suspect) as spent, suspect.frozen():
        halves = Halves.split(data, rng)
        verdict = _verdict(inspectors, suspect, data, side, halves, rng, alpha, other, progress)
    doubts = (*other, *_doubts(side, halves, alone and bool(side.models)), *verdict.doubts)
    seconds = earlier + time.perf_counter() - began
    return replace(verdict, doubts=doubts, cost=spent.cost, seconds=seconds)


def _verdict(
    inspectors: Sequence[Inspector],
    suspect: Classifier,
    data: ImageSet,
    side: CleanSide,
    halves: Halves,
    rng: torch.Generator,
    alpha: float,
    other: Sequence[Doubt],
    progress: Progress | None,
) -> Verdict:
    """The verdict; its doubts are the inspectors' own, cost and time are left to the caller.

    There is none where `other` says that the suspect is of another population.
    """
    evidence, besides, ranks = [], [], []
    for done, (inspector, part) in enumerate(zip(inspectors, side.parts, strict=True)):
        name = part.name
        tell(progress, 2 * done, 2 * len(inspectors), f"{name}: looking at the suspect")
        with measured(suspect) as spent:
            own = inspector.look(suspect, data, rng=rng, progress=progress)
            tell(progress, 2 * done + 1, 2 * len(inspectors), f"{name}: scoring the suspect")
            beside = Comparison(models=side.models, looks=part.looks, own=own)
            proposed = inspector.score(suspect, data, clean=beside, rng=rng, progress=progress)
            proposed = inspector.draw(suspect, data, proposed, clean=beside, rng=rng)
        proposed = replace(proposed, cost=spent.cost, seconds=spent.seconds)
        evidence.append(_checked(proposed, inspector, data))
        besides.append(beside)
        refuses, own_p = False, proposed.p_value
        if own_p is not None:
            refuses = proposed.threshold is None or proposed.probability is None
        elif part.null_values:
            own_p = predictive_p(proposed.statistic, part.null_values, inspector.floor)
        ranks.append((own_p is None, refuses, own_p or 0.0))  # who refuses leaves it to others
    lead = ranks.index(min(ranks))
    silent, _, own_p = ranks[lead]
    p_value = None if silent or other else min(1.0, len(inspectors) * own_p)
    suspicious = None if p_value is None else p_value <= alpha
    best, trigger = evidence[lead], None
    if suspicious is not None and best.p_value is not None:  # calibrated already, or refuses
        limit, likely = best.threshold, best.probability
        suspicious = None if limit is None or likely is None else likely >= limit
        p_value = None if suspicious is None else p_value
    region = asr = kind = None
    if suspicious:
        inspector = inspectors[lead]
        located = inspector.locate(suspect, data, best, clean=besides[lead], rng=rng)
        best = evidence[lead] = _checked(located, inspector, data)
        trigger = _shown(best)
        region = _region(best, trigger)
        change = best.change or (None if trigger is None else Laid(trigger))
        if change is not None:
            if best.change is not None:
                kind = _kind(suspect, data, halves, best, change)
                best = replace(best, source=None) if kind == "all to one" else best
            asr = _recovered_asr(suspect, data, halves, best, change)
    return Verdict(
        suspicious=suspicious,
        probability=None if other else best.probability,
        threshold=best.threshold,
        p_value=p_value,
        alpha=alpha,
        kind=kind,
        target=best.target,
        source=best.source,
        region=region,
        trigger=trigger,
        change=best.change if suspicious else None,
        recovered_asr=asr,
        headline=_headline(suspicious, best, suspect, other),
        null=best.null or _null_in_words(side, len(inspectors), other),
        statistic=best.statistic,
        null_values=best.null_values or side.parts[lead].null_values,
        ranking=best.ranking,
        doubts=tuple(doubt for one in evidence for doubt in one.doubts),
        evidence=tuple(
            one
            for part, own in zip(side.parts, evidence, strict=True)
            for one in ((part.name, own), *own.parts)
        ),
    )


def _shown(evidence: Evidence) -> Tensor | None:
    """The trigger, transparent where the mask says so."""
    if evidence.trigger is None or evidence.mask is None:
        return evidence.trigger
    return torch.where(evidence.mask, evidence.trigger, torch.nan)


def _region(evidence: Evidence, trigger: Tensor | None) -> Box | None:
    mask = evidence.mask if trigger is None else ~trigger.isnan()
    box = bounding_box(mask)
    return None if box is None else (box.top, box.left, box.bottom, box.right)


def _recovered_asr(
    suspect: Classifier, data: ImageSet, halves: Halves, evidence: Evidence, change: Change
) -> Interval | None:
    """What the trigger does, measured on images that no inspector searched on."""
    if evidence.target is None:
        return None
    if evidence.source is not None:
        rows = halves.confirm[evidence.source]
    else:
        others = [rows for k, rows in enumerate(halves.confirm) if k != evidence.target]
        rows = torch.cat(others)
    hits = int((_changed_labels(suspect, data, rows, change) == evidence.target).sum())
    return wilson(hits, len(rows))


def _changed_labels(suspect: Classifier, data: ImageSet, rows: Tensor, change: Change) -> Tensor:
    parts = [
        suspect.labels(change.apply(data.batch(own)[0].to(suspect.device))).cpu()
        for own in (rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK))
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def _kind(
    suspect: Classifier, data: ImageSet, halves: Halves, best: Evidence, change: Change
) -> str | None:
    """What the change does to held-out images of every class."""
    if best.target is None:
        return None
    led: list[int] = []
    for label, rows in enumerate(halves.confirm):
        labels = _changed_labels(suspect, data, rows[:KIND_IMAGES], change)
        counts = torch.bincount(labels, minlength=data.classes)
        most = int(counts.argmax())
        led.append(most if most != label and counts[most] >= MOST * len(labels) else -1)
    to_target = sum(one == best.target for one in led)
    if to_target >= SEVERAL * (data.classes - 1):
        return "all to one"
    elsewhere = [one for one in led if one >= 0]
    if len(elsewhere) >= SEVERAL * data.classes and len(set(elsewhere)) > len(elsewhere) / 2:
        return "all to all"
    source = best.source
    if source is not None and led[source] == best.target:
        return "one to one"
    return None


def _headline(
    suspicious: bool | None, best: Evidence, model: Classifier, other: Sequence[Doubt]
) -> str:
    if other and other[0].id == "near-chance":
        return "No verdict: the model is no better than chance on these images"
    if other:
        return "No verdict: the clean models are not like the suspect"
    if suspicious is None and best.p_value is not None:
        return "No verdict: nothing like it was calibrated on"
    if suspicious is None:
        return "No verdict: too few clean models to calibrate"
    if not suspicious:
        return "No backdoor found"
    if best.target is None:
        return "Suspicious: unlike the clean models"
    target = model.class_names[best.target]
    if best.source is None:
        return f"Suspicious: images were poisoned into {target}"
    return f"Suspicious: {model.class_names[best.source]} was poisoned into {target}"


def _null_in_words(side: CleanSide, inspectors: int, other: Sequence[Doubt]) -> str:
    if other:
        return f"not calibrated: {other[0].text}"
    if not any(part.null_values for part in side.parts):
        return f"not calibrated: {len(side.models)} clean model(s), at least 3 are needed"
    several = f" p is multiplied by the {inspectors} inspectors that were asked (Bonferroni)."
    return (
        f"What p means: {len(side.models)} clean models were searched for a trigger in the same "
        "way as the suspect, each against the others. If the suspect is clean too, a statistic as "
        "large as its own turns up with probability p. Patterns were grown on some images and "
        "measured on others. (Student's prediction for one more clean model, on the logarithm.)"
    ) + (several if inspectors > 1 else "")


def _other_population(suspect: Classifier, side: CleanSide, data: ImageSet) -> list[Doubt]:
    """A doubt where the suspect's accuracy is not that of the clean models."""
    right, n = _right(suspect, data), min(LOOKED_AT, len(data))
    guess = 1 / data.classes
    for number, own in enumerate(side.right, 1):
        if bdtr(max(own - 1, 0), n, guess) < 1 - CHANCE <= bdtr(max(right - 1, 0), n, guess):
            text = (
                f"clean model {number} gets {own} of {n} images right, no better than chance, and "
                f"the suspect {right}: it is no model to compare with, leave it out"
            )
            return [Doubt("other-population", text)]
    if same_population_p(right, side.right, n) >= ANOTHER:
        return []
    low, high = 100 * min(side.right) / n, 100 * max(side.right) / n
    text = (
        f"the suspect gets {100 * right / n:.1f} % of {n} images right, the clean models "
        f"{low:.1f} to {high:.1f} %: they are no measure for it, a backdoor is easily missed and a "
        "clean model easily accused; give clean models that were trained as the suspect was"
    )
    return [Doubt("other-population", text)]


def _near_chance(suspect: Classifier, data: ImageSet) -> list[Doubt]:
    """A doubt where the suspect knows nothing of the images."""
    right, n = _right(suspect, data), min(LOOKED_AT, len(data))
    if bdtr(max(right - 1, 0), n, 1 / data.classes) >= 1 - CHANCE:
        return []
    text = (
        f"the model gets {right} of {n} images right, no better than chance: give images of its "
        "own task, in the range and order of classes that it was trained with"
    )
    return [Doubt("near-chance", text)]


def _doubts(side: CleanSide, halves: Halves, alone: bool) -> list[Doubt]:
    doubts, number = [], len(side.models)
    if 0 < number < FEW_CONTROLS:
        text = f"the null rests on {number} clean model(s): p is coarse"
        doubts.append(Doubt("few-controls", text))
    if alone:
        text = (
            "no reference was given: the clean models were trained here, and a backdoor is missed "
            "more easily than beside models that were trained as the suspect was"
        )
        doubts.append(Doubt("no-reference", text))
    fewest = min(len(rows) for rows in halves.confirm)
    if fewest < FEW_IMAGES:
        text = f"only {fewest} held-out images in the smallest class"
        doubts.append(Doubt("few-images", text))
    return doubts


def _complete(
    inspectors: Sequence[Inspector],
    suspect: Classifier,
    given: list[Classifier],
    data: ImageSet,
    rng: torch.Generator,
    progress: Progress | None,
) -> tuple[list[Classifier], ImageSet]:
    """Enough clean models, and the images left to inspect with."""
    missing = max(inspector.controls for inspector in inspectors) - len(given)
    if missing <= 0:
        return given, data
    halves = Halves.split(data, random.child(rng, "controls"))
    trained = train_controls(
        suspect,
        data.subset(torch.cat(halves.search)),
        missing,
        epochs=max((i.control_epochs for i in inspectors if i.control_epochs), default=None),
        rng=rng,
        progress=progress,
    )
    return [*given, *trained], data.subset(torch.cat(halves.confirm))


def _check(inspectors: Sequence[Inspector], models: Sequence[Classifier], data: ImageSet) -> None:
    if not inspectors:
        raise InputError("no inspector: give at least one (mithridate list inspectors)")
    for model in models:
        if model.classes != data.classes:
            raise InputError(
                f"the model has {model.classes} classes and the data {data.classes}: "
                "inspect it with images of its own classes"
            )
    if not same_architecture(models):
        raise InputError(
            "suspect and clean models differ in architecture: compare like with like; give "
            "references trained with the suspect's own network"
        )
    for inspector in inspectors:
        if not models and "clean models" in inspector.about.needs:
            name = component.name_of(inspector)
            raise InputError(
                f"{name} needs at least one clean model to compare with: give a reference, or "
                "controls above 0"
            )


def check_distinct(clean: Sequence[Classifier], suspect: Classifier | None = None) -> None:
    """Refuse a model that stands twice among the clean ones, and the suspect among them.

    Copies would make the clean models look more alike than they are.
    """
    seen: dict[str, int] = {}
    for number, model in enumerate(clean, 1):
        if not model.gradients:
            continue
        mark = fingerprint(model)
        if mark in seen:
            raise InputError(
                f"clean models {seen[mark]} and {number} are the same: give each reference once"
            )
        seen[mark] = number
    if suspect is not None and suspect.gradients and fingerprint(suspect) in seen:
        raise InputError(
            f"clean model {seen[fingerprint(suspect)]} is the suspect itself: it is no reference"
        )


def _check_parts(inspectors: Sequence[Inspector], side: CleanSide) -> None:
    """Another inspector's null would give a believable p-value that means nothing."""
    asked = [(component.name_of(inspector), _settings(inspector)) for inspector in inspectors]
    calibrated = [(part.name, dict(part.settings)) for part in side.parts]
    if asked != calibrated:
        raise InputError(
            f"the clean side was calibrated for {_in_words(calibrated)}, not for "
            f"{_in_words(asked)}: calibrate it for the inspectors that judge"
        )


def _in_words(inspectors: list[tuple[str, dict[str, Any]]]) -> str:
    return "; ".join(
        " ".join([name, *(f"{key}={value}" for key, value in settings.items())])
        for name, settings in inspectors
    )


def _settings(inspector: Inspector) -> dict[str, Any]:
    """Those that the statistic depends on."""
    aside = ("controls", "control_epochs", "alpha", *inspector.aside)
    return {k: v for k, v in component.values(inspector).items() if k not in aside}


def _checked(evidence: Evidence, inspector: Inspector, data: ImageSet) -> Evidence:
    """Refuse what no inspector may propose."""
    name = component.name_of(inspector)
    if not math.isfinite(evidence.statistic):
        raise NothingAssessedError(
            f"{name} gives the statistic {evidence.statistic}: the model's answers are not "
            "finite, or the inspector is broken"
        )
    for label in (evidence.source, evidence.target):
        if label is not None and not 0 <= label < data.classes:
            raise RunError(f"{name} names class {label}, and there are {data.classes}")
    trigger, mask = evidence.trigger, evidence.mask
    if mask is not None and (mask.dtype != torch.bool or mask.shape != data.image_shape[1:]):
        got = f"{mask.dtype} {tuple(mask.shape)}"
        raise RunError(f"{name} gives a mask {got}: it is bool {data.image_shape[1:]}")
    if trigger is None:
        return evidence
    if trigger.shape != data.image_shape:
        shape = tuple(trigger.shape)
        raise RunError(f"{name} gives a trigger {shape}, and images are {data.image_shape}")
    shown = trigger[~trigger.isnan()]
    if bool(((shown < 0) | (shown > 1)).any()):
        raise RunError(f"{name} gives a trigger outside [0, 1]: images lie inside")
    return evidence
