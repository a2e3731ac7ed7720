"""An embedding as marks: a dot for each clean image, a cross for each stamped one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mithridate.reports import words
from mithridate.reports.images import MOST_CLASSES, Array
from mithridate.reports.plot import short

SIDE, EDGE, LETTERS = 400, 12, 14
COLOURS = 10
MOST_POINTS = 4000
SHAPES = {"dots": "h0", "crosses": "m-3 -3l6 6m0 -6l-6 6"}
"""Paths from the middle of a mark; each has a style of its own."""


@dataclass(frozen=True)
class Embedding:
    """Paths by their style, names at their places, and the key: style, shape and name."""

    title: str
    height: float
    marks: Sequence[tuple[str, str]]
    tags: Sequence[tuple[float, float, str]]
    key: Sequence[tuple[str, str, str]]
    width: int = SIDE


def scatter(
    points: Array, labels: Array, stamped: Array, names: Sequence[str]
) -> tuple[Embedding | None, str]:
    """Drawing and caption of (N, 2) points; both axes have one scale, as distances matter.

    Args:
        labels: (N,) classes.
        stamped: (N,) whether the image carries the trigger.
    """
    kept = np.flatnonzero(np.isfinite(points).all(axis=1))
    total = len(kept)
    if not total:
        return None, "No image has a place."
    if total > MOST_POINTS:
        kept = kept[np.linspace(0, total - 1, MOST_POINTS).round().astype(int)]
    places, height = _placed(points[kept])
    classes, cross = labels[kept].astype(int), stamped[kept] > 0
    present = [int(k) for k in np.unique(classes)]
    marks = []
    for at, shape in enumerate(SHAPES):
        for k in present:
            mine = places[(classes == k) & (cross == bool(at))].round(1).tolist()
            path = "".join(f"M{short(x)} {short(y)}{SHAPES[shape]}" for x, y in mine)
            marks += [(f"{shape} k{k % COLOURS}", path)] if path else []
    tags: list[tuple[float, float, str]] = []
    key = []
    for k in present if len(present) <= MOST_CLASSES else []:
        name = words.short(names[k] if 0 <= k < len(names) else str(k))
        clean = (classes == k) & ~cross
        tags.append((*_free(places[clean if clean.any() else classes == k], tags), name))
        key.append((f"dots k{k % COLOURS}", SHAPES["dots"], name))
    if cross.any():
        both = zip(SHAPES.items(), ("clean", "stamped"), strict=True)
        key += [(f"{style} kx", shape, name) for (style, shape), name in both]
    many = f"{int((~cross).sum()):,} clean and {int(cross.sum()):,} stamped images"
    caption = "Each mark is an image, coloured by its true class"
    caption += " and named at the middle of its clean images." if tags else "."
    if len(present) > COLOURS:
        caption += f" {len(present)} classes share {COLOURS} colours."
    if len(kept) < total:
        caption += f" {len(kept):,} of {total:,} images are drawn."
    caption += " Neighbours are alike to the model; axes have no meaning of their own."
    return Embedding(f"Embedding of {many}", height, marks, tags, key), caption


def _placed(points: Array) -> tuple[Array, float]:
    """Places with room at the edges, y downwards, and the height of the whole."""
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (SIDE - 2 * EDGE) / (float((high - low).max()) or 1.0)
    height = max(SIDE / 3, 2 * EDGE + float(high[1] - low[1]) * scale)
    turned = (points - (low + high) / 2) * np.array([scale, -scale])
    return np.asarray(turned + np.array([SIDE / 2, height / 2])), height


def _free(places: Array, tags: Sequence[tuple[float, float, str]]) -> tuple[float, float]:
    """The middle of the places, or below it where a name already stands there."""
    x, y = np.median(places, axis=0).tolist()
    while any(abs(x - a) < LETTERS and abs(y - b) < LETTERS for a, b, _ in tags):
        y += LETTERS
    return x, y
