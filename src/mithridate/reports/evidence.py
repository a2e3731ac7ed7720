"""What the views of an audit show: charts and pictures of one inspection, ready to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mithridate.reports import images, panels, words
from mithridate.reports.audit import Audit, Inspection
from mithridate.reports.images import MOST_CLASSES, Array
from mithridate.reports.panels import MODELS, Bar, Grid, Label, Tile
from mithridate.reports.plot import Axis, nice_ticks
from mithridate.reports.schema import Cell
from mithridate.reports.select import list_of, number_of, share_of, text_of

BINS = 48
TALLEST_STACK = 9
Block = dict[str, Any]


@dataclass(frozen=True)
class Strip:
    """The suspect's statistic against the values seen under the null hypothesis.

    A dot is one null value; where dots would pile up too high they become columns. Each lies so
    many percent from the left and pixels from the top; a column has its height too.
    """

    axis: Axis
    dots: Sequence[tuple[float, float]]
    columns: Sequence[tuple[float, float, float]]
    observed: float
    summary: str

    @property
    def value(self) -> str:
        """The statistic as it is written."""
        return words.number(self.observed)


def strip(suspect: float, values: Sequence[float], height: float = 92.0) -> Strip | None:
    """The strip of a statistic; None where there is no null value to compare with.

    >>> strip(5.0, [1.0, 2.0, 3.0]).summary
    "The suspect's 5 lies above all 3 values seen from clean models."
    """
    if not values:
        return None
    low, high = min([*values, suspect]), max([*values, suspect])
    span = (high - low) or abs(high)
    span = span if span > 1e-300 else 1.0  # below, the division would be by 0
    low, high = low - 0.06 * span, high + 0.06 * span
    ticks = tuple((tick, words.number(tick)) for tick in nice_ticks(low, high))
    axis = Axis("", low, high, ticks)
    stacks: dict[int, int] = {}
    for value in values:
        at = min(BINS - 1, int(BINS * axis.percent(value) / 100))
        stacks[at] = stacks.get(at, 0) + 1
    tallest = max(stacks.values())
    dots, columns = [], []
    for at, count in sorted(stacks.items()):
        middle = round(100 * (at + 0.5) / BINS, 2)
        if tallest <= TALLEST_STACK:
            dots += [(middle, round(height - 5 - 9 * k, 1)) for k in range(count)]
        else:
            tall = round((height - 12) * count / tallest, 1)
            columns.append((middle, round(height - tall, 1), tall))
    under = sum(value < suspect for value in values)
    many = f"{under or 'none'} of the {len(values)}"
    many = f"all {len(values)}" if under == len(values) else many
    summary = f"The suspect's {words.number(suspect)} lies above {many} values"
    return Strip(axis, dots, columns, suspect, f"{summary} seen from clean models.")


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
        return panels.only(len(self.classes), len(self.verdict.names), "the highest ranked")


def classes_of(
    verdict: Inspection | None, names: Sequence[str], counts: Array | None = None
) -> list[Label]:
    """The classes that are shown, in order, with their roles in the verdict.

    All where they fit; else source and target, those that rank highest, and of those that occur
    in `counts`, a confusion matrix, the most confused, then those with the most images.
    """
    both = {role: getattr(verdict, role, None) for role in ("target", "source")}
    roles = {index: role for role, index in both.items() if index is not None}
    everyone = panels.labels_of(names, roles)
    if len(everyone) <= MOST_CLASSES:
        return everyone
    ranked = [k for k, _, _ in ranking(verdict.cell) if k < len(everyone)] if verdict else []
    by_count = range(len(everyone))
    if counts is not None:
        errors = counts.sum(0) + counts.sum(1) - 2 * np.diag(counts)
        order = np.lexsort((-counts.sum(1), -errors))
        by_count = order[(counts.sum(0) + counts.sum(1))[order] > 0].tolist() or by_count
    first = list(dict.fromkeys([*roles, *ranked, *by_count]))[:MOST_CLASSES]
    return [everyone[index] for index in sorted(first)]


def ranking(cell: Cell) -> list[tuple[int, float | None, float | None]]:
    """Class, score and distance, most suspicious first."""
    scores, distances = list_of(cell, "ranking_score"), list_of(cell, "distances")
    classes = [int(k) for k in list_of(cell, "ranking_class") if k is not None and k >= 0]
    return [(k, _at(scores, at), _at(distances, k)) for at, k in enumerate(classes)]


def _at(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None


def distances(one: Inspected) -> Block | None:
    """The statistic among its null values, and the distances per class."""
    cell = one.verdict.cell
    value = number_of(cell, "statistic")
    null_values = [v for v in list_of(cell, "null_values") if v is not None]
    drawn = None if value is None else strip(value, null_values)
    charts = [
        _chart(charted, one.classes)
        for charted in one.charted
        if any(distance is not None for distance in list_of(charted, "distances"))
    ]
    if drawn is None and not charts:
        return None
    name = text_of(cell, "statistic_name") or "statistic"
    return {"strip": drawn, "name": name, "charts": charts, "fewer": one.fewer}


def _chart(cell: Cell, classes: Sequence[Label]) -> Block:
    """Distance per class at one setting: of the suspect, and between clean models."""
    probe, eps = text_of(cell, "probe"), number_of(cell, "eps")
    title = f"{probe.capitalize()} probe" if probe else "Distance per class"
    title += f", eps {words.number(eps)}" if eps is not None else ""
    counts = {what: number_of(cell, f"{what}s") for what in ("step", "sample")}
    note = [words.many(round(count), what) for what, count in counts.items() if count is not None]
    bars = _bars(classes, list_of(cell, "distances"), list_of(cell, "clean_distances"))
    return {"title": title, "note": ", ".join(note), "bars": bars}


def _bars(
    classes: Sequence[Label], *lists: Sequence[float | None]
) -> list[tuple[Label, list[float | None], list[str]]]:
    """Of each class its values: in percent of the greatest of all, and as text."""
    top = max((value for values in lists for value in values if value is not None), default=1.0)
    rows = []
    for label in classes:
        mine = [_at(values, label.index) for values in lists]
        shares = [None if v is None else round(100 * v / (top or 1.0), 2) for v in mine]
        rows.append((label, shares, [words.aligned(value, top) for value in mine]))
    return rows


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
    planted_here = any(name.startswith("truth_") for name in cell.values)
    for role in ("source", "target") if planted_here else ():
        pair = getattr(verdict, role), getattr(verdict, f"true_{role}")
        names = [words.NONE if k is None else words.short(verdict.names[k]) for k in pair]
        truth.append((role, *names, "yes" if pair[0] == pair[1] else "no"))
    if truth:
        planted = places[1] if verdict.true_region else "no fixed place"
        overlap = f"IoU {words.number(number_of(cell, 'iou'), 2)}"
        truth.append(("region", places[0], planted, overlap))
    rates = [("recovered trigger stamped", share_of(cell, "recovered_asr"))]
    if planted_here or asr is not None:
        rates.append(("planted trigger stamped (ASR)", asr))
    return {
        "tiles": tiles,
        "bar": bar,
        "region": boxes[0],
        "true_region": boxes[1],
        "where": places[0],
        "absent": "none was located" if verdict.suspicious is False else "not run",
        "rates": [*rates, ("clean accuracy", accuracy)],
        "truth": truth,
    }


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
    return {"panel": panels.maps_of(one.arrays, one.classes, region), "fewer": one.fewer}


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
    return {
        "note": text_of(cell, "note"),
        "bars": _bars(classes, list_of(cell, "distances")),
        "costs": [
            ("images asked", words.number(number_of(judged, "queries")),
             words.number(number_of(cell, "queries"))),
            ("gradients", words.number(number_of(judged, "gradients")), "none needed"),
            ("time", words.seconds(audit.seconds if audit else None),
             words.seconds(audit.noise_seconds if audit else None)),
        ],
    }  # fmt: skip
