"""Records and arrays to what the templates show: rows of cells with pictures and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mithridate.reports import images, words
from mithridate.reports.basic import Region
from mithridate.reports.charts import shares
from mithridate.reports.folder import Array
from mithridate.reports.images import Picture, Scale
from mithridate.reports.schema import Distances, Record

MOST_CLASSES = 24
"""More classes than this are not all shown: the top of the ranking stands for them."""
MOST_EXAMPLES = 8


@dataclass(frozen=True)
class Label:
    """A class as the report names it; `role` is "source", "target", or ""."""

    index: int
    name: str
    full: str
    role: str


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
class TableCell:
    """One shaded cell; `shade` in percent; `kind` is "right", "wrong", "none" or "score"."""

    text: str
    shade: float
    kind: str
    marked: bool = False
    title: str = ""


@dataclass(frozen=True)
class Grid:
    """A table over classes: `cells[i][j]` belongs to `rows[i]` and `columns[j]`."""

    rows: Sequence[Label]
    columns: Sequence[Label]
    cells: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class BarRow:
    """One class in a distance chart; bar and tick in percent of the longest bar."""

    label: Label
    bar: float | None
    tick: float | None
    suspect: str
    clean: str


@dataclass(frozen=True)
class Box:
    """A region in percent of its picture."""

    left: float
    top: float
    width: float
    height: float


def box(region: Region | None, record: Record) -> Box | None:
    """A half-open pixel region as an outline over a picture."""
    if region is None:
        return None
    _, height, width = record.data.image_shape
    top, left, bottom, right = region
    return Box(
        left=round(100 * left / width, 3),
        top=round(100 * top / height, 3),
        width=round(100 * (right - left) / width, 3),
        height=round(100 * (bottom - top) / height, 3),
    )


def labels(record: Record) -> list[Label]:
    """Every class, in order."""
    verdict = record.verdict
    source = verdict.source if verdict else None
    target = verdict.target if verdict else None
    roles = {source: "source", target: "target"}
    return [
        Label(index, words.short(name), name, roles.get(index, ""))
        for index, name in enumerate(record.data.class_names)
    ]


def shown(record: Record) -> list[Label]:
    """The classes that tables and panels show, in class order: all of them where they fit."""
    everyone = labels(record)
    if len(everyone) <= MOST_CLASSES:
        return everyone
    named = [label.index for label in everyone if label.role]
    ranked = [row.index for row in record.ranking]
    first = list(dict.fromkeys([*named, *ranked, *range(len(everyone))]))[:MOST_CLASSES]
    return [everyone[index] for index in sorted(first)]


def map_cells(record: Record, arrays: Mapping[str, Array]) -> tuple[list[MapCell], Scale, Scale]:
    """The panels of both models on one scale, their difference on another, both scales beside."""
    suspect, reference = arrays.get("maps_suspect"), arrays.get("maps_reference")
    difference = suspect - reference if suspect is not None and reference is not None else None
    scale = images.shared_scale(suspect, reference)
    reach = images.signed_scale(
        None if difference is None else np.stack([images.strongest_channel(d) for d in difference])
    )
    first, second = arrays.get("map_share_suspect"), arrays.get("map_share_reference")
    cells = [
        MapCell(
            label=label,
            suspect=images.plain(suspect[label.index], scale) if suspect is not None else None,
            reference=(
                images.plain(reference[label.index], scale) if reference is not None else None
            ),
            difference=(
                images.signed(difference[label.index], reach) if difference is not None else None
            ),
            share_suspect=words.percent(None if first is None else float(first[label.index])),
            share_reference=words.percent(None if second is None else float(second[label.index])),
        )
        for label in shown(record)
    ]
    return cells, scale, reach


def confusion(record: Record, counts: Array | None) -> Grid | None:
    """True class by predicted class; the (source, target) cell is marked."""
    if counts is None:
        return None
    classes = shown(record)
    totals = np.nansum(counts, axis=1)

    def cell(row: Label, column: Label) -> TableCell:
        count = counts[row.index, column.index]
        total = totals[row.index]
        share = 0.0 if not total > 0 or np.isnan(count) else float(count / total)
        right = row.index == column.index
        said = f"true {row.full}, predicted {column.full}: {words.percent(share)} of the row"
        return TableCell(
            text=words.number(float(count)),
            shade=round(100 * (share if right else share**0.5), 1),
            kind="none" if not count > 0 else "right" if right else "wrong",
            marked=(row.role, column.role) == ("source", "target"),
            title=said,
        )

    return Grid(classes, classes, [[cell(row, column) for column in classes] for row in classes])


def pair_scores(record: Record) -> Grid | None:
    """Scores of (source, target) pairs, shaded from the least to the greatest."""
    if record.pairs is None:
        return None
    pairs = record.pairs
    values = [value for row in pairs for value in row if value is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    classes = shown(record)

    def cell(row: Label, column: Label) -> TableCell:
        value = pairs[row.index][column.index]
        level = 0.0 if value is None or high <= low else (value - low) / (high - low)
        return TableCell(
            text=words.aligned(value, max(abs(low), abs(high))),
            shade=round(100 * level, 1),
            kind="none" if value is None else "score",
            marked=(row.role, column.role) == ("source", "target"),
            title=f"{row.full} to {column.full}",
        )

    return Grid(classes, classes, [[cell(row, column) for column in classes] for row in classes])


def pair_maps(record: Record, maps: Array | None, scale: Scale) -> Grid | None:
    """Maps of (source, target) pairs; rows and columns without any map are left out."""
    if maps is None:
        return None
    present = np.asarray(np.isfinite(maps).any(axis=(2, 3, 4)))
    rows = [label for label in shown(record) if present[label.index].any()]
    columns = [label for label in shown(record) if present[:, label.index].any()]
    cells = [[images.plain(maps[r.index, c.index], scale) for c in columns] for r in rows]
    return Grid(rows, columns, cells) if rows else None


def bars(record: Record, distances: Distances) -> list[BarRow]:
    """The distance chart of one setting, in class order."""
    clean = distances.clean or [None] * len(distances.suspect)
    top = max([value for value in [*distances.suspect, *clean] if value is not None], default=1.0)
    bar, tick = shares(distances.suspect, top), shares(clean, top)
    return [
        BarRow(
            label,
            bar[label.index],
            tick[label.index],
            words.aligned(distances.suspect[label.index], top),
            words.aligned(clean[label.index], top),
        )
        for label in shown(record)
    ]


def examples(
    arrays: Mapping[str, Array], first: str, second: str, third: str | None = None
) -> list[tuple[Picture | None, Picture | None, Picture | None]]:
    """Pictures side by side, example by example; the third is a signed difference."""
    if first not in arrays or second not in arrays:
        return []
    before, after = arrays[first], arrays[second]
    change = arrays.get(third, after - before) if third and before.shape == after.shape else None
    scale = images.signed_scale(change)
    return [
        (
            images.plain(before[row]),
            images.plain(after[row]),
            images.signed(change[row], scale) if change is not None else None,
        )
        for row in range(min(len(before), len(after), MOST_EXAMPLES))
    ]
