"""What an audit's views show: charts and pictures of one inspection, ready to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mithridate.reports import charts, images, words
from mithridate.reports.audit import Inspection
from mithridate.reports.images import MOST_CLASSES, Array, Picture, Scale
from mithridate.reports.panels import Grid, Label, labels_of
from mithridate.reports.schema import Cell, Region
from mithridate.reports.select import list_of, number_of, text_of

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class MapCell:
    """One class in the panels of suspect and reference."""

    label: Label
    suspect: Picture | None
    reference: Picture | None
    difference: Picture | None
    share_suspect: str
    share_reference: str


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
class Box:
    """A region in percent of its picture."""

    left: float
    top: float
    width: float
    height: float


def box(region: Region | None, height: int, width: int) -> Box | None:
    """A half-open pixel region as an outline over a picture of this size.

    >>> box((0, 4, 2, 8), 8, 8)
    Box(left=50.0, top=0.0, width=50.0, height=25.0)
    """
    if region is None:
        return None
    top, left, bottom, right = region
    return Box(
        left=round(100 * left / width, 3),
        top=round(100 * top / height, 3),
        width=round(100 * (right - left) / width, 3),
        height=round(100 * (bottom - top) / height, 3),
    )


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


def map_cells(classes: Sequence[Label], arrays: Arrays) -> tuple[list[MapCell], Scale, Scale]:
    """The panels of both models on one scale, their difference on another, both scales beside."""
    suspect, reference = arrays.get("maps_suspect"), arrays.get("maps_reference")
    difference = suspect - reference if suspect is not None and reference is not None else None
    scale = images.shared_scale(suspect, reference)
    reach = images.signed_scale(
        None if difference is None else np.stack([images.strongest_channel(d) for d in difference])
    )
    if suspect is None and reference is None:
        return [], scale, reach

    def share(name: str, index: int) -> str:
        held = arrays.get(name)
        return words.percent(None if held is None else float(held[index]))

    def plain(held: Array | None, index: int) -> Picture | None:
        return None if held is None else images.plain(held[index], scale)

    cells = [
        MapCell(
            label=label,
            suspect=plain(suspect, label.index),
            reference=plain(reference, label.index),
            difference=(
                None if difference is None else images.signed(difference[label.index], reach)
            ),
            share_suspect=share("map_share_suspect", label.index),
            share_reference=share("map_share_reference", label.index),
        )
        for label in classes
    ]
    return cells if any(c.suspect or c.reference for c in cells) else [], scale, reach


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
