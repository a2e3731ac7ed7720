"""What an audit's views show: charts and pictures of one inspection, ready to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mithridate.reports import charts, images, words
from mithridate.reports.audit import Inspection
from mithridate.reports.images import MOST_CLASSES, Array, Scale
from mithridate.reports.panels import Grid, Label, labels_of
from mithridate.reports.schema import Cell
from mithridate.reports.select import list_of, number_of, text_of

Arrays = Mapping[str, Array]


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


def labels(found: Inspection | None, names: Sequence[str]) -> list[Label]:
    """Every class, in order, with its role in the verdict."""
    roles: dict[int, str] = {}
    if found is not None:
        roles = {k: role for k, role in ((found.source, "source"), (found.target, "target"))
                 if k is not None}  # fmt: skip
    return labels_of(names, roles)


def shown(everyone: Sequence[Label], ranking: Sequence[int] = ()) -> list[Label]:
    """The classes that tables and panels show, in order: all where they fit, else the top ones."""
    if len(everyone) <= MOST_CLASSES:
        return list(everyone)
    named = [label.index for label in everyone if label.role]
    ranked = [index for index in ranking if index < len(everyone)]
    first = list(dict.fromkeys([*named, *ranked, *range(len(everyone))]))[:MOST_CLASSES]
    return [everyone[index] for index in sorted(first)]


def ranking(cell: Cell) -> list[tuple[int, float | None, float | None]]:
    """Class, score and distance, most suspicious first."""
    classes, scores = list_of(cell, "ranking_class"), list_of(cell, "ranking_score")
    distances = list_of(cell, "distances")
    rows = []
    for at, index in enumerate(classes):
        if index is not None:
            k = int(index)
            score = scores[at] if at < len(scores) else None
            rows.append((k, score, distances[k] if 0 <= k < len(distances) else None))
    return rows


def pair_maps(classes: Sequence[Label], maps: Array | None, scale: Scale) -> Grid | None:
    """Maps of (source, target) pairs; rows and columns without any map are left out."""
    if maps is None:
        return None
    present = np.asarray(np.isfinite(maps).any(axis=(2, 3, 4)))
    rows = [label for label in classes if present[label.index].any()]
    columns = [label for label in classes if present[:, label.index].any()]
    cells = [[images.plain(maps[r.index, c.index], scale) for c in columns] for r in rows]
    return Grid(rows, columns, cells) if rows else None


def distance_chart(cell: Cell, classes: Sequence[Label]) -> Chart | None:
    """The distances of one cell, in class order; None where it has none."""
    suspect, clean = list_of(cell, "distances"), list_of(cell, "clean_distances")
    if not any(value is not None for value in suspect):
        return None
    top = max(value for value in [*suspect, *clean] if value is not None)
    bars = []
    for label in classes:
        mine, other = _at(suspect, label.index), _at(clean, label.index)
        (bar, tick) = charts.shares([mine, other], top)
        bars.append(BarRow(label, bar, tick, words.aligned(mine, top), words.aligned(other, top)))
    probe, eps = text_of(cell, "probe"), number_of(cell, "eps")
    title = f"{probe.capitalize()} probe" if probe else "Distance per class"
    steps, samples = number_of(cell, "steps"), number_of(cell, "samples")
    note = [f"{words.number(steps)} steps"] if steps is not None else []
    note += [words.many(round(samples), "sample")] if samples is not None else []
    if eps is not None:
        title += f", eps {words.number(eps)}"
    return Chart(title, ", ".join(note), bars)


def noise_bars(cell: Cell, classes: Sequence[Label]) -> list[BarRow]:
    """Distance per class by white noise."""
    values = list_of(cell, "distances")
    top = max((value for value in values if value is not None), default=1.0)
    return [
        BarRow(
            label,
            charts.shares([_at(values, label.index)], top)[0],
            None,
            words.aligned(_at(values, label.index), top),
            "",
        )
        for label in classes
    ]


def _at(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None
