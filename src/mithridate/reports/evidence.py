"""What the views of an audit show: charts and pictures of one inspection, ready to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mithridate.reports import charts, images, panels, words
from mithridate.reports import header as heads
from mithridate.reports.audit import Audit, Inspection
from mithridate.reports.images import MOST_CLASSES, Array
from mithridate.reports.panels import MODELS, Bar, Grid, Label, Tile
from mithridate.reports.schema import Cell
from mithridate.reports.select import list_of, number_of, share_of, text_of

Block = dict[str, Any]


@dataclass(frozen=True)
class BarRow:
    """One class in a distance chart; bar and tick in percent of the longest bar."""

    label: Label
    bar: float | None
    tick: float | None
    suspect: str
    clean: str


@dataclass(frozen=True)
class Chart:
    """Distance per class at one setting: of the suspect, and between clean models."""

    title: str
    note: str
    bars: Sequence[BarRow]


@dataclass(frozen=True)
class Inspected:
    """One inspection with what a view of it draws.

    Attributes:
        classes: those that are shown, in order, with their roles.
        charted: the cells whose distances stand side by side.
        audit: the record that it belongs to, if it is an audit.
    """

    verdict: Inspection
    arrays: Mapping[str, Array]
    classes: Sequence[Label]
    charted: Sequence[Cell]
    audit: Audit | None

    @property
    def fewer(self) -> str:
        """What to say where not every class is shown."""
        return fewer(self.classes, len(self.verdict.names), ", the highest ranked")


def fewer(classes: Sequence[Label], total: int, which: str = "") -> str:
    """What to say where not every class is shown.

    >>> fewer([], 0)
    ''
    """
    if len(classes) == total:
        return ""
    return f" {len(classes)} of {total} classes are shown{which}."


def classes_of(verdict: Inspection | None, names: Sequence[str]) -> list[Label]:
    """The classes that are shown, in order, with their roles in the verdict.

    All where they fit; else source and target and those that rank highest.
    """
    roles: dict[int, str] = {}
    for role in ("target", "source"):
        index = getattr(verdict, role, None)
        if index is not None:
            roles[index] = role
    everyone = panels.labels_of(names, roles)
    if len(everyone) <= MOST_CLASSES:
        return everyone
    ranked = [k for k, _, _ in ranking(verdict.cell) if k < len(everyone)] if verdict else []
    first = list(dict.fromkeys([*roles, *ranked, *range(len(everyone))]))[:MOST_CLASSES]
    return [everyone[index] for index in sorted(first)]


def ranking(cell: Cell) -> list[tuple[int, float | None, float | None]]:
    """Class, score and distance, most suspicious first."""
    scores, distances = list_of(cell, "ranking_score"), list_of(cell, "distances")
    classes = [int(k) for k in list_of(cell, "ranking_class") if k is not None and k >= 0]
    return [(k, _at(scores, at), _at(distances, k)) for at, k in enumerate(classes)]


def _at(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None


def opening(one: Inspected) -> Block:
    """The verdict, as a page may open with it."""
    return {"header": heads.of_verdict(one.verdict, one.arrays)}


def strip(one: Inspected) -> Block | None:
    """The statistic among its null values, and the distances per class."""
    cell = one.verdict.cell
    value = number_of(cell, "statistic")
    null_values = [v for v in list_of(cell, "null_values") if v is not None]
    drawn = None if value is None else charts.strip(value, null_values)
    beside = [chart for c in one.charted if (chart := distance_chart(c, one.classes)) is not None]
    if drawn is None and not beside:
        return None
    name = text_of(cell, "statistic_name") or "statistic"
    return {"strip": drawn, "name": name, "charts": beside, "fewer": one.fewer}


def distance_chart(cell: Cell, classes: Sequence[Label]) -> Chart | None:
    """The distances of one cell, in class order; None where it has none."""
    suspect, clean = list_of(cell, "distances"), list_of(cell, "clean_distances")
    if not any(value is not None for value in suspect):
        return None
    top = max(value for value in [*suspect, *clean] if value is not None)
    bars = []
    for label in classes:
        pair = _at(suspect, label.index), _at(clean, label.index)
        bar, tick = charts.shares(pair, top)
        bars.append(BarRow(label, bar, tick, *(words.aligned(value, top) for value in pair)))
    probe, eps = text_of(cell, "probe"), number_of(cell, "eps")
    title = f"{probe.capitalize()} probe" if probe else "Distance per class"
    title += f", eps {words.number(eps)}" if eps is not None else ""
    counts = {what: number_of(cell, f"{what}s") for what in ("step", "sample")}
    note = [words.many(round(count), what) for what, count in counts.items() if count is not None]
    return Chart(title, ", ".join(note), bars)


def trigger(one: Inspected) -> Block:
    """Where the trigger sits, what it does, and the truth where it is known."""
    verdict, cell = one.verdict, one.verdict.cell
    shape = next((array.shape for array in one.arrays.values()), verdict.shape)
    boxes, places = [], []
    for region in (verdict.region, verdict.true_region):
        boxes.append(panels.box(region, *shape[-2:]) if shape else None)
        places.append(words.region(region, *shape[-2:]) if shape else "not located")
    tiles, bar = _trigger_tiles(one, *boxes)
    asr, accuracy = share_of(cell, "asr"), share_of(cell, "accuracy")
    if one.audit is not None:
        asr, accuracy = one.audit.asr, one.audit.accuracy
    truth = []
    for role in ("source", "target") if _is_known(cell) else ():
        pair = getattr(verdict, role), getattr(verdict, f"true_{role}")
        names = [words.NONE if k is None else words.short(verdict.names[k]) for k in pair]
        truth.append((role, *names, "yes" if pair[0] == pair[1] else "no"))
    if truth:
        planted = places[1] if verdict.true_region else "no fixed place"
        overlap = f"IoU {words.number(number_of(cell, 'iou'), 2)}"
        truth.append(("region", places[0], planted, overlap))
    return {
        "tiles": tiles,
        "bar": bar,
        "region": boxes[0],
        "true_region": boxes[1],
        "where": places[0],
        "absent": "none was located" if verdict.suspicious is False else "not run",
        "rates": [
            ("recovered trigger stamped", share_of(cell, "recovered_asr")),
            ("planted trigger stamped (ASR)", asr),
            ("clean accuracy", accuracy),
        ],
        "truth": truth,
    }


def _is_known(cell: Cell) -> bool:
    """Whether the record tells what was planted."""
    return any(name.startswith("truth_") for name in cell.values)


def _trigger_tiles(
    one: Inspected, region: panels.Box | None, true_region: panels.Box | None
) -> tuple[list[Tile], Bar | None]:
    """The target's maps, their difference with its scale, and the recovered trigger."""
    tiles, bar, target = [], None, one.verdict.target
    scale = images.shared_scale(one.arrays.get("maps_suspect"), one.arrays.get("maps_reference"))
    for model in MODELS:
        maps = one.arrays.get(f"maps_{model}")
        if maps is not None and target is not None:
            label = f"{model.capitalize()}’s map of “{words.short(one.verdict.names[target])}”"
            tiles.append(Tile(images.plain(maps[target], scale), label, label, region=region))
    difference, pattern = one.arrays.get("difference"), one.arrays.get("trigger")
    if difference is not None:
        reach = images.signed_scale(images.strongest_channel(difference))
        coloured = ", the channel that differs most" if len(difference) > 1 else ""
        bar = panels.signed_bar(reach, f"suspect darker – suspect brighter{coloured}")
        alt, label = "Difference of the target's maps", "Suspect minus reference"
        picture = images.signed(difference, reach)
        tiles.append(Tile(picture, alt, label, "", False, region, true_region))
    if pattern is not None:
        label = "Recovered trigger; chequered where it leaves the image alone"
        picture = images.plain(pattern)
        tiles.append(Tile(picture, "Recovered trigger", label, "", True, region, true_region))
    return tiles, bar


def maps(one: Inspected) -> Block | None:
    """The maps of both models, class by class."""
    first = next((a for name, a in one.arrays.items() if name.startswith("maps_")), None)
    if first is None:
        return None
    region = panels.box(one.verdict.region, *first.shape[-2:])
    return {"panel": panels.maps_of("", one.arrays, one.classes, region), "fewer": one.fewer}


def pairs(one: Inspected) -> Block | None:
    """Scores and maps of source and target."""
    if not one.arrays:
        return None
    scores = one.arrays.get("pair_scores")
    held = {model: one.arrays.get(f"pair_maps_{model}") for model in MODELS}
    scale = images.shared_scale(*held.values())
    grids = {model: _pair_maps(one.classes, array, scale) for model, array in held.items()}
    return {
        "scores": None if scores is None else panels.scores_grid(scores, one.classes),
        "maps": [(model, grid) for model, grid in grids.items() if grid is not None],
        "scale": scale,
    }


def _pair_maps(classes: Sequence[Label], array: Array | None, scale: images.Scale) -> Grid | None:
    """Maps of (source, target) pairs; rows and columns without any map are left out."""
    if array is None:
        return None
    present = np.asarray(np.isfinite(array).any(axis=(2, 3, 4)))
    rows = [label for label in classes if present[label.index].any()]
    columns = [label for label in classes if present[:, label.index].any()]
    cells = [[images.plain(array[r.index, c.index], scale) for c in columns] for r in rows]
    return Grid(rows, columns, cells) if rows else None


def noise(cell: Cell, classes: Sequence[Label], audit: Audit | None) -> Block:
    """The white-noise analysis beside what the verdict cost."""
    judged = audit.verdict.cell if audit is not None and audit.verdict is not None else None
    values = list_of(cell, "distances")
    top = max((value for value in values if value is not None), default=1.0)
    bars = []
    for label in classes:
        value = _at(values, label.index)
        bars.append((label, charts.shares([value], top)[0], words.aligned(value, top)))
    return {
        "note": text_of(cell, "note"),
        "bars": bars,
        "costs": [
            ("images asked", words.number(number_of(judged, "queries")),
             words.number(number_of(cell, "queries"))),
            ("gradients", words.number(number_of(judged, "gradients")), "none needed"),
            ("time", words.seconds(audit.seconds if audit else None),
             words.seconds(audit.noise_seconds if audit else None)),
        ],
    }  # fmt: skip
