"""An embedding as SVG: a dot for each clean image, a cross for each stamped one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mithridate.reports import words
from mithridate.reports.images import MOST_CLASSES, Array
from mithridate.reports.plot import short, text

SIDE, EDGE, LETTERS = 400, 12, 14
COLOURS = 10
MOST_POINTS = 4000
CROSS = "m-3 -3l6 6m0 -6l-6 6"


def scatter(points: Array, labels: Array, stamped: Array, names: Sequence[str]) -> tuple[str, str]:
    """Markup and caption of (N, 2) points; both axes have one scale, as distances matter.

    Args:
        labels: (N,) classes. stamped: (N,) whether the image carries the trigger.
    """
    kept = np.flatnonzero(np.isfinite(points).all(axis=1))
    total = len(kept)
    if not total:
        return "", "No image has a place."
    if total > MOST_POINTS:
        kept = kept[np.linspace(0, total - 1, MOST_POINTS).round().astype(int)]
    places, height = _placed(points[kept])
    classes, cross = labels[kept].astype(int), stamped[kept] > 0
    present = [int(k) for k in np.unique(classes)]
    named = present if len(present) <= MOST_CLASSES else []
    marks, tags = "", ""
    for shape in (False, True):
        for k in present:
            marks += _marks(places[(classes == k) & (cross == shape)], k, cross=shape)
    middles: list[tuple[float, float]] = []
    for k in named:
        mine = classes == k
        clean = mine & ~cross
        middles.append(_free(places[clean if clean.any() else mine], middles))
        tags += _tag(*middles[-1], _name(names, k))
    many = f"{int((~cross).sum()):,} clean and {int(cross.sum()):,} stamped images"
    svg = (
        f'<svg viewBox="0 0 {SIDE} {short(height)}" role="img"><title>Embedding of {many}</title>'
        f"{marks}{tags}</svg>{_key(named, names, stamped=bool(cross.any()))}"
    )
    return svg, _caption(total, len(kept), len(present))


def _caption(total: int, shown: int, classes: int) -> str:
    caption = "Each mark is an image, coloured by its true class"
    caption += " and named at the middle of its clean images." if classes <= MOST_CLASSES else "."
    if classes > COLOURS:
        caption += f" {classes} classes share {COLOURS} colours."
    if shown < total:
        caption += f" {shown:,} of {total:,} images are drawn."
    return f"{caption} Neighbours are alike to the model; axes have no meaning of their own."


def _placed(points: Array) -> tuple[Array, float]:
    """Places with room at the edges, y downwards, and the height of the whole."""
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (SIDE - 2 * EDGE) / (float((high - low).max()) or 1.0)
    height = max(SIDE / 3, 2 * EDGE + float(high[1] - low[1]) * scale)
    turned = (points - (low + high) / 2) * np.array([scale, -scale])
    return np.asarray(turned + np.array([SIDE / 2, height / 2])), height


def _free(places: Array, taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The middle of the places, or below it where a name already stands there."""
    x, y = np.median(places, axis=0).tolist()
    while any(abs(x - a) < LETTERS and abs(y - b) < LETTERS for a, b in taken):
        y += LETTERS
    return x, y


def _marks(places: Array, label: int, *, cross: bool) -> str:
    if not len(places):
        return ""
    shape, style = (CROSS, "crosses") if cross else ("h0", "dots")
    path = "".join(f"M{short(round(x, 1))} {short(round(y, 1))}{shape}" for x, y in places.tolist())
    return f'<path class="{style} k{label % COLOURS}" d="{path}"/>'


def _tag(x: float, y: float, name: str) -> str:
    return f'<text x="{short(x)}" y="{short(y)}" dy=".35em">{text(words.short(name))}</text>'


def _key(labels: Sequence[int], names: Sequence[str], *, stamped: bool) -> str:
    grey = "kx"
    entries = [(f"k{k % COLOURS}", "dots", _name(names, k)) for k in labels]
    if stamped:
        entries += [(grey, "dots", "clean"), (grey, "crosses", "stamped")]
    shapes = {"dots": "h0", "crosses": CROSS}
    return '<ul class="embedding-key">{}</ul>'.format(
        "".join(
            f'<li><svg viewBox="-6 -6 12 12" aria-hidden="true"><path class="{kind} {colour}" '
            f'd="M0 0{shapes[kind]}"/></svg><bdi>{text(words.short(caption))}</bdi></li>'
            for colour, kind, caption in entries
        )
    )


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if 0 <= label < len(names) else str(label)
