"""Everything that the page shows, computed once from a record and its arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mithridate.reports import charts, evasion, images, panels, words
from mithridate.reports.folder import Array
from mithridate.reports.schema import Proportion, Record


@dataclass(frozen=True)
class State:
    """How the verdict looks: a class name, a word, and a sign that needs no colour."""

    name: str
    word: str
    sign: str


STATES = {
    True: State("alarm", "Alarm", "▲"),
    False: State("clear", "No alarm", "✓"),
    None: State("open", "No verdict", "?"),
}


@dataclass(frozen=True)
class Tile:
    """One key figure: what, how much, and what stands behind it."""

    name: str
    value: str
    note: str


def context(record: Record, arrays: Mapping[str, Array]) -> dict[str, Any]:
    """The variables of the templates."""
    common: dict[str, Any] = {
        "record": record,
        "verdict": record.verdict,
        "state": _state(record),
        "headline": _headline(record),
        "tiles": _audit_tiles(record) if record.kind == "audit" else _attack_tiles(record),
        "labels": panels.labels(record),
        "hidden": len(record.data.class_names) - len(panels.shown(record)),
        "confusion_clean": panels.confusion(record, arrays.get("confusion_clean")),
        "confusion_poisoned": panels.confusion(record, arrays.get("confusion_poisoned")),
        "attack_pictures": panels.examples(
            arrays, "attack_clean", "attack_adversarial", "attack_difference"
        ),
        "attack_grid": evasion.grid(record, arrays),
        "attack_goal": evasion.goal_line(record),
        "attack_closing": evasion.closing(record),
        "attack_doubts": evasion.dealt(record.attacks),
        "settings": list(flatten(record.settings)),
        "environment": list(flatten(record.environment)),
        "w": words,
        "e": evasion,
        "flatten": flatten,
    }
    return common | (_audit(record, arrays) if record.kind == "audit" else {})


def _audit(record: Record, arrays: Mapping[str, Array]) -> dict[str, Any]:
    verdict = record.verdict
    truth = record.backdoor.truth if record.backdoor else None
    cells, scale, reach = panels.map_cells(record, arrays)
    pair_scale = images.shared_scale(
        arrays.get("pair_maps_suspect"), arrays.get("pair_maps_reference")
    )
    means = arrays.get("mean_images")
    difference, trigger = arrays.get("difference"), arrays.get("trigger")
    own = images.signed_scale(
        None if difference is None else images.strongest_channel(difference)[None]
    )
    return {
        "region": panels.box(verdict.region if verdict else None, record),
        "true_region": panels.box(truth.region if truth else None, record),
        "truth": truth,
        "strip": charts.strip(verdict.statistic) if verdict and verdict.statistic else None,
        "map_cells": cells if any(c.suspect or c.reference for c in cells) else [],
        "map_scale": scale,
        "map_reach": reach,
        "difference": None if difference is None else images.signed(difference, own),
        "difference_scale": own,
        "trigger": None if trigger is None else images.plain(trigger),
        "examples": panels.examples(arrays, "examples_clean", "examples_stamped"),
        "means": (
            []
            if means is None
            else [(label, images.plain(means[label.index])) for label in panels.shown(record)]
        ),
        "charts": [(row, panels.bars(record, row)) for row in record.distances],
        "pair_scores": panels.pair_scores(record),
        "pair_maps": [
            (name, panels.pair_maps(record, arrays.get(f"pair_maps_{name}"), pair_scale))
            for name in ("suspect", "reference")
        ],
        "pair_scale": pair_scale,
        "noise_bars": _noise_bars(record),
    }


def _noise_bars(record: Record) -> list[tuple[panels.Label, float | None, str]]:
    noise = record.white_noise
    if noise is None:
        return []
    top = max([value for value in noise.distances if value is not None], default=1.0)
    share = charts.shares(noise.distances, top)
    return [
        (label, share[label.index], words.aligned(noise.distances[label.index], top))
        for label in panels.shown(record)
    ]


def _state(record: Record) -> State:
    if record.status == "incomplete":
        return State("open", "Incomplete run", "?")
    if record.kind == "attack" and record.verdict is None:
        return State("plain", "Attack run", "◆")
    return STATES[record.verdict.suspicious if record.verdict else None]


def _headline(record: Record) -> str:
    if record.verdict is not None and record.verdict.headline.strip():
        return record.verdict.headline
    if record.kind == "audit":
        return "No verdict was reached"
    strongest = evasion.strongest(record)
    if strongest is None or strongest.accuracy_left is None:
        return record.title
    left = words.percent(strongest.accuracy_left.value)
    return f"{strongest.name} leaves {left} accuracy on {strongest.n:,} images"


def _share_tile(name: str, share: Proportion | None) -> Tile:
    return Tile(name, words.percent(share.value if share else None), words.interval(share))


def _audit_tiles(record: Record) -> list[Tile]:
    found = record.backdoor
    return [
        _share_tile("Clean accuracy of the suspect", record.model.clean_accuracy),
        _share_tile("Success of the recovered trigger", found.recovered_asr if found else None),
        Tile("Clean control models", str(record.controls), "the clean side of the test"),
        _cost_tile(record),
    ]


def _attack_tiles(record: Record) -> list[Tile]:
    strongest, least = evasion.strongest(record), evasion.smallest(record)
    by = f", {strongest.name}" if strongest and len(record.attacks) > 1 else ""
    third = _share_tile("Attack success", strongest.success if strongest else None)
    if least is not None:
        value = f"L2 {words.number(least.median_l2)}"
        third = Tile("Smallest change", value, f"median of the fooled, {least.name}")
    return [
        _share_tile("Clean accuracy", record.model.clean_accuracy),
        _share_tile(f"Accuracy left{by}", strongest.accuracy_left if strongest else None),
        third,
        _cost_tile(record),
    ]


def _cost_tile(record: Record) -> Tile:
    cost = record.cost
    asked = f"{cost.queries:,} images asked, {cost.gradients:,} gradients"
    return Tile("Time", words.seconds(cost.seconds), asked)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names and text.

    >>> list(flatten({"eps": 0.1, "trigger": {"size": [6, 6], "seed": None}}))
    [('eps', '0.1'), ('trigger.size', '6, 6'), ('trigger.seed', '–')]
    """
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(str(part) for part in value) or words.NONE
        else:
            yield name, words.NONE if value is None else str(value)
