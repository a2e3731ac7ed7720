"""From findings to a verdict in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mithridate.classifier import Classifier, Cost
from mithridate.defenses.inspect.base import MapSet, Verdict, map_distances
from mithridate.defenses.inspect.null import predictive_p
from mithridate.defenses.inspect.search import Finding, Search
from mithridate.defenses.inspect.stamp import stamp
from mithridate.doubts import Doubt
from mithridate.metrics import Interval, wilson

if TYPE_CHECKING:
    from mithridate.defenses.inspect.bias_maps import CleanSide

FEW_CONTROLS = 6
FEW_IMAGES = 20


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a verdict rests on."""

    model: Classifier
    clean: CleanSide
    maps: MapSet
    findings: list[Finding]
    energies: Tensor
    search: Search
    grid: MapSet | None
    grid_pairs: tuple[tuple[int, int], ...]
    reference_given: bool


def conclude(seen: Evidence, alpha: float) -> Verdict:
    """Weigh the best finding against the clean models' own best, and locate it.

    Cost and time are left at 0 for the caller, who measured them.
    """
    best, clean, maps = seen.findings[0], seen.clean, seen.maps
    p_value = predictive_p(best.excess, clean.null_values) if clean.null_values else None
    suspicious = None if p_value is None else p_value <= alpha
    region = trigger = asr = None
    if suspicious:
        best = seen.search.name_source(seen.model, best, clean.models)
        region, trigger = seen.search.locate(seen.model, best, clean.models)
        asr = _recovered_asr(seen, best, trigger)
    reference = clean.maps[0]
    distances = map_distances(maps, reference)
    shifts = torch.stack([m.shift for m in clean.maps])
    return Verdict(
        suspicious=suspicious,
        target=best.target,
        source=best.source,
        p_value=p_value,
        alpha=alpha,
        headline=_headline(suspicious, best, seen.model),
        null=_null_in_words(clean),
        statistic=best.excess,
        null_values=clean.null_values,
        region=region,
        trigger=trigger,
        recovered_asr=asr,
        ranking=_ranking(seen.findings, seen.energies, distances),
        distances=distances,
        clean_distances=_clean_distances(clean),
        pair_scores=seen.energies,
        difference=(maps.shift - shifts.mean(0))[best.target],
        maps=maps,
        reference_maps=reference,
        grid=seen.grid,
        grid_pairs=seen.grid_pairs,
        doubts=tuple(_doubts(seen)),
        cost=Cost(),
        seconds=0.0,
    )


def _headline(suspicious: bool | None, best: Finding, model: Classifier) -> str:
    source, target = model.class_names[best.source], model.class_names[best.target]
    if suspicious is None:
        return "No verdict: too few clean models to calibrate"
    if suspicious:
        return f"Suspicious: {source} was poisoned into {target}"
    return "No backdoor found"


def _null_in_words(clean: CleanSide) -> str:
    if not clean.null_values:
        return f"not calibrated: {len(clean.models)} clean model(s), at least 3 are needed"
    return (
        "Null hypothesis: the suspect is one more draw from the population of the "
        f"{len(clean.models)} clean models. Each of them was searched in the same way against "
        "the others; p is the chance, by Student's prediction for a new draw of the logarithm, "
        "of a statistic as large as the suspect's. Images that confirm were not searched on."
    )


def _recovered_asr(seen: Evidence, best: Finding, trigger: Tensor) -> Interval:
    rows = seen.search.halves.confirm[best.source]
    images = seen.search.data.batch(rows)[0].to(seen.model.device)
    hits = seen.model.labels(stamp(images, trigger)) == best.target
    return wilson(int(hits.sum()), len(hits))


def _ranking(
    findings: list[Finding], energies: Tensor, distances: Tensor
) -> tuple[tuple[int, float, float], ...]:
    scores: dict[int, float] = {}
    for finding in findings:
        scores.setdefault(finding.target, finding.excess)
    energy = energies.nan_to_num(-1).amax(1).tolist()
    order = sorted(range(len(energy)), key=lambda c: (-scores.get(c, float("-inf")), -energy[c]))
    return tuple((c, scores.get(c, float("nan")), float(distances[c])) for c in order)


def _clean_distances(clean: CleanSide) -> Tensor:
    """Between the reference and the other clean models, averaged over those with a map."""
    others = [map_distances(m, clean.maps[0]) for m in clean.maps[1:]]
    if not others:
        return torch.full_like(clean.maps[0].count, torch.nan)
    return torch.stack(others).nanmean(0)


def _doubts(seen: Evidence) -> list[Doubt]:
    found = []
    number = len(seen.clean.models)
    if number < FEW_CONTROLS:
        text = f"the null rests on {number} clean model(s): p is coarse"
        found.append(Doubt("few-controls", text))
    if not seen.reference_given:
        text = "no reference was given: the clean models were trained here"
        found.append(Doubt("no-reference", text))
    fewest = min(len(rows) for rows in seen.search.halves.confirm)
    if fewest < FEW_IMAGES:
        text = f"only {fewest} held-out images in the smallest class"
        found.append(Doubt("few-images", text))
    return found
