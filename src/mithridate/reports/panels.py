"""Arrays of a cell to what the templates show: grids, maps, confusions, heat, embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from mithridate.errors import InputError, unknown
from mithridate.reports import images, words
from mithridate.reports.images import MOST_CLASSES, Array, Picture, Scale
from mithridate.reports.scatter import scatter
from mithridate.reports.schema import Region

Arrays = Mapping[str, Array]
MOST_EXAMPLES = 8
NAMED_CONFUSIONS = 3
MODELS = ("suspect", "reference")


@dataclass(frozen=True)
class Label:
    """A class as the report names it; `role` is "source", "target", or ""."""

    index: int
    name: str
    full: str
    role: str


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


@dataclass(frozen=True)
class Tile:
    """One picture of a panel; None where there is nothing to show.

    Attributes:
        alt: what it is, for who cannot see it.
        label, note: printed beside it.
        clear: its background is chequered, as some pixels are transparent.
        region, true_region: outlined on it.
    """

    picture: Picture | None
    alt: str
    label: str = ""
    note: str = ""
    clear: bool = False
    region: Box | None = None
    true_region: Box | None = None


@dataclass(frozen=True)
class Column:
    """Pictures one below the other: of one class, or of one example."""

    name: str
    full: str
    tiles: tuple[Tile, ...]
    role: str = ""


@dataclass(frozen=True)
class Sheet:
    """A contact sheet: one picture of many maps, with names along both sides."""

    title: str
    tile: Tile
    names: tuple[str, ...]


@dataclass(frozen=True)
class Counts:
    """A confusion matrix as a table, or as a picture where it is large; mean images below."""

    title: str
    grid: Grid | None = None
    tile: Tile | None = None
    means: tuple[Column, ...] = ()


@dataclass(frozen=True)
class Bar:
    """A colour scale with the values at its ends."""

    kind: Literal["grey", "signed"]
    low: str
    high: str
    text: str


@dataclass(frozen=True)
class Panel:
    """A titled group of pictures; `kind` says which of the fields hold them.

    "examples" and "maps": `columns`; "heat": the tiles of one column; "sheets": `sheets`;
    "counts": `counts`; "embedding": `svg`. `cell` is the title of the cell they belong to.
    """

    cell: str
    title: str
    caption: str
    kind: Literal["examples", "maps", "heat", "sheets", "counts", "embedding"]
    columns: tuple[Column, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    counts: tuple[Counts, ...] = ()
    svg: str = ""
    bars: tuple[Bar, ...] = ()


def holes(array: Array) -> bool:
    """Whether some pixels are transparent."""
    return not bool(np.isfinite(array).all())


def grey_bar(scale: Scale, text: str) -> Bar:
    """From black to white."""
    return Bar("grey", words.number(scale.low, 2), words.number(scale.high, 2), text)


def signed_bar(scale: Scale, text: str) -> Bar:
    """From blue through clear to orange."""
    return Bar("signed", words.number(scale.low, 2), f"+{words.number(scale.high, 2)}", text)


def only(shown: int, total: int, which: str) -> str:
    """What to say where not all classes are shown."""
    return f" {shown} of {total} classes are shown, {which}." if shown < total else ""


class Drawing(NamedTuple):
    """How an array is drawn.

    Attributes:
        shape: a letter or number per axis.
        draw: makes the panel from all the arrays that it takes.
        beside: arrays that the panel needs to say all.
        alone: False where the array says nothing without those beside it.
    """

    shape: str
    draw: Callable[[str, Arrays, Sequence[str]], Panel]
    beside: tuple[str, ...] = ()
    alone: bool = True


def pictures(title: str, arrays: dict[str, Array], class_names: list[str]) -> list[Panel]:
    """The panels of one cell, in the order of `DRAWN`.

    Args:
        title: the cell's.
        arrays: name -> array, by the names of `DRAWN`; NaN is "nothing there".
        class_names: index -> name; a class beyond them is called by its index.

    Raises:
        InputError: an unknown name, or an array that cannot be what its name says.

    >>> [panel.title for panel in pictures("fgsm", {"trigger": np.ones((1, 2, 2))}, [])]
    ['Recovered trigger']
    """
    checked = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    sizes = check(checked)
    draws = dict.fromkeys(d.draw for name, d in DRAWN.items() if name in arrays and d.alone)
    names = list(class_names)
    names += [str(k) for k in range(len(names), sizes.get("K", 0))]
    return [draw(title, checked, names) for draw in draws]


def with_companions(names: Iterable[str]) -> list[str]:
    """The arrays that a view names, and those without which these are not fully drawn.

    >>> with_companions(["maps_suspect"])
    ['maps_suspect', 'map_share_suspect']
    """
    wanted = list(names)
    return list(
        dict.fromkeys([*wanted, *(b for n in wanted if n in DRAWN for b in DRAWN[n].beside)])
    )


def check(arrays: Arrays, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """The letters of a shape stand for the same number in all arrays of a cell, which is returned.

    Args:
        sizes: letters whose number is known.

    Raises:
        InputError: an unknown name, or an array that cannot be what its name says.
    """
    known = dict(sizes or {})
    for name, array in arrays.items():
        if name not in DRAWN:
            raise unknown("array", name, DRAWN)
        shape = DRAWN[name].shape
        fits = array.ndim == len(shape) and all(
            size == int(letter) if letter.isdigit() else known.setdefault(letter, size) == size
            for letter, size in zip(shape, array.shape, strict=False)
        )
        if not fits or (("C" in shape) and array.shape[shape.index("C")] not in (1, 3)):
            raise InputError(
                f"array {name!r} should be {' x '.join(shape)} as the cell's other arrays, "
                f"got {' x '.join(map(str, array.shape))}: run the study again"
            )
    return known


def _examples(cell: str, arrays: Arrays, names: Sequence[str]) -> Panel:
    before, after = arrays.get("examples_clean"), arrays.get("examples_changed")
    change = after - before if before is not None and after is not None else None
    factor = enlargement(change)
    reach = Scale(-1 / factor, 1 / factor)
    count = len(next(array for array in (before, after) if array is not None))
    columns = []
    for at in range(min(count, MOST_EXAMPLES)):
        tiles = []
        if before is not None:
            tiles.append(Tile(images.plain(before[at]), f"image {at + 1}, clean", "clean"))
        if after is not None:
            tiles.append(Tile(images.plain(after[at]), f"image {at + 1}, changed", "changed"))
        if change is not None:
            label = "difference" if factor == 1 else f"difference × {words.number(factor)}"
            picture = images.signed(change[at], reach)
            tiles.append(Tile(picture, f"image {at + 1}, {label}", label))
        columns.append(Column(str(at + 1), f"image {at + 1}", tuple(tiles)))
    caption = []
    if change is not None:
        times = f"enlarged {words.number(factor)} times" if factor > 1 else "not enlarged"
        caption.append(f"The difference is {times}.")
    bars = () if change is None else (signed_bar(reach, "changed minus clean"),)
    if count > MOST_EXAMPLES:
        caption.append(f"{MOST_EXAMPLES} of {count} images are shown.")
    return Panel(
        cell, "Clean and changed images", " ".join(caption), "examples", tuple(columns), bars=bars
    )


def enlargement(change: Array | None) -> float:
    """The largest of 1, 2, 5, 10, 20, 50 ... that keeps every difference within full colour.

    >>> enlargement(np.array([0.1, -0.03])), enlargement(np.array([0.3]))
    (10.0, 2.0)
    """
    top = 0.0 if change is None else float(np.abs(np.nan_to_num(change)).max(initial=0.0))
    if not 0 < top < 1:
        return 1.0
    power = 10.0 ** math.floor(-math.log10(top) + 1e-6)
    return max((power * step for step in (1, 2, 5) if power * step * top <= 1 + 1e-6), default=1.0)


def _maps(cell: str, arrays: Arrays, names: Sequence[str]) -> Panel:
    maps = [arrays[f"maps_{model}"] for model in MODELS if f"maps_{model}" in arrays]
    classes = most_different(maps, len(maps[0]))
    labels = labels_of(names)
    panel = maps_of(cell, arrays, [labels[k] for k in classes])
    caption = panel.caption + only(len(classes), len(maps[0]), "those whose maps differ most")
    return replace(panel, caption=caption)


def maps_of(
    cell: str, arrays: Arrays, classes: Sequence[Label], region: Box | None = None
) -> Panel:
    """Maps of these classes: both models on one scale, their difference on another.

    `region` is outlined on the maps of the target.
    """
    models = [model for model in MODELS if f"maps_{model}" in arrays]
    maps = [arrays[f"maps_{model}"] for model in models]
    scale = images.shared_scale(*maps)
    change = maps[0] - maps[1] if len(maps) > 1 else None
    strongest = None if change is None else np.stack([images.strongest_channel(d) for d in change])
    reach = images.signed_scale(strongest)
    columns = []
    for label in classes:
        tiles = []
        for model, array in zip(models, maps, strict=True):
            share = arrays.get(f"map_share_{model}")
            note = "" if share is None else words.percent(float(share[label.index]))
            picture = images.plain(array[label.index], scale)
            box_of_target = region if label.role == "target" else None
            alt = f"map of {label.full}, {model}"
            tiles.append(Tile(picture, alt, model, note, region=box_of_target))
        if change is not None:
            picture = images.signed(change[label.index], reach)
            tiles.append(Tile(picture, f"difference of the maps of {label.full}", "difference"))
        columns.append(Column(label.name, label.full, tuple(tiles), label.role))
    caption = "The mean crafted image of each class that the model predicts."
    bars = [grey_bar(scale, f"map value{', both models' if change is not None else ''}")]
    if change is not None:
        caption += " The reference is on the suspect's scale, their difference on its own."
        bars.append(signed_bar(reach, "suspect minus reference"))
    if any(f"map_share_{model}" in arrays for model in models):
        caption += " The percentage is the share of crafted images under that class."
    return Panel(cell, "Bias maps", caption, "maps", tuple(columns), bars=tuple(bars))


def _pair_maps(cell: str, arrays: Arrays, names: Sequence[str]) -> Panel:
    models = [model for model in MODELS if f"pair_maps_{model}" in arrays]
    maps = [arrays[f"pair_maps_{model}"] for model in models]
    scale = images.shared_scale(*maps)
    total = len(maps[0])
    classes = most_different(maps, total)
    shown = tuple(words.short(names[k]) for k in classes)
    sheets = []
    for model, array in zip(models, maps, strict=True):
        picture = images.plain(sheet(array[np.ix_(classes, classes)]), scale)
        alt = f"maps of all pairs, {model}: a row per source, a column per target"
        sheets.append(Sheet(model, Tile(picture, alt), shown))
    caption = "Rows: source. Columns: target. A pair that was not looked at is left empty."
    caption += only(len(classes), total, "those whose maps differ most")
    bar = grey_bar(scale, "map value, one scale for the panel")
    return Panel(cell, "Bias maps of pairs", caption, "sheets", sheets=tuple(sheets), bars=(bar,))


def most_different(maps: Sequence[Array], total: int) -> list[int]:
    """All classes in order, or the `MOST_CLASSES` in whose maps two models differ most."""
    if total <= MOST_CLASSES:
        return list(range(total))
    apart = np.nan_to_num(maps[0] - maps[-1] if len(maps) > 1 else maps[0])
    by_class = (apart**2).reshape(total, -1).sum(axis=1)
    if maps[0].ndim == 5:
        by_class = by_class + (apart**2).sum(axis=(0, 2, 3, 4))
    return sorted(np.argsort(-by_class, kind="stable")[:MOST_CLASSES].tolist())


def _confusions(cell: str, arrays: Arrays, names: Sequence[str]) -> Panel:
    parts = []
    for state, title in (("clean", "Clean test images"), ("stamped", "Stamped test images")):
        counts = arrays.get(f"confusion_{state}")
        means = arrays.get("mean_images" if state == "clean" else "mean_stamped")
        if counts is None and means is None:
            continue
        grid, tile = None, None
        if counts is not None and len(counts) <= MOST_CLASSES:
            grid = counts_grid(counts, labels_of(names[: len(counts)]))
        elif counts is not None:
            picture, worst = counts_picture(counts, names)
            tile = Tile(picture, f"{title}: {worst}", note=worst)
        parts.append(
            Counts(title, grid, tile, () if means is None else _means(means, title, names))
        )
    confused = any(part.grid or part.tile for part in parts)
    caption = (
        ["Rows: true class. Columns: predicted class. Shade: share of the row."] if confused else []
    )
    means_of = [part for part in parts if part.means]
    if means_of:
        caption.append("Mean image of each true class, from black at 0 to white at 1.")
        total = len(arrays["mean_images" if "mean_images" in arrays else "mean_stamped"])
        caption.append(only(len(means_of[0].means), total, "the first").strip())
    name = "Confusion of classes" if confused else "Mean images"
    return Panel(cell, name, " ".join(filter(None, caption)), "counts", counts=tuple(parts))


def _means(means: Array, state: str, names: Sequence[str]) -> tuple[Column, ...]:
    return tuple(
        Column(
            words.short(names[k]),
            names[k],
            (Tile(images.plain(mean), f"mean image of {names[k]}, {state.lower()}"),),
        )
        for k, mean in enumerate(means[:MOST_CLASSES])
    )


def _difference(cell: str, arrays: Arrays, names: Sequence[str]) -> Panel:
    array = arrays["difference"]
    reach = images.signed_scale(images.strongest_channel(array))
    caption = "The suspect's map of the target minus the reference's."
    if len(array) > 1:
        caption += " Of each pixel, the channel that differs most."
    tile = Tile(images.signed(array, reach), "difference of the target's maps", clear=holes(array))
    bar = signed_bar(reach, "suspect darker – suspect brighter")
    return Panel(
        cell, "Difference of maps", caption, "heat", (Column("", "", (tile,)),), bars=(bar,)
    )


def _trigger(cell: str, arrays: Arrays, names: Sequence[str]) -> Panel:
    """Pixel values as they are; a pattern with values below zero in diverging colours."""
    array = arrays["trigger"]
    chequered = "Chequered where it leaves the image alone." if holes(array) else ""
    if np.nanmin(array, initial=0.0) < 0:
        reach = images.signed_scale(array)
        tile = Tile(images.signed(array, reach), "recovered trigger", clear=holes(array))
        bar = signed_bar(reach, "added to the image")
    else:
        tile = Tile(images.plain(array), "recovered trigger", clear=holes(array))
        bar = grey_bar(Scale(0.0, 1.0), "pixel value")
    column = Column("", "", (tile,))
    return Panel(cell, "Recovered trigger", chequered, "heat", (column,), bars=(bar,))


def _scores(cell: str, arrays: Arrays, names: Sequence[str]) -> Panel:
    scores = arrays["pair_scores"]
    classes = labels_of(names[: len(scores)])[:MOST_CLASSES]
    caption = "Rows: source. Columns: target. A pair that was not looked at is a dash."
    caption += only(len(classes), len(scores), "the first")
    counts = (Counts("Score of every pair", scores_grid(scores, classes)),)
    return Panel(cell, "Scores of pairs", caption, "counts", counts=counts)


def _embedding(cell: str, arrays: Arrays, names: Sequence[str]) -> Panel:
    points = arrays["embedding"]
    nothing = np.zeros(len(points))
    labels = arrays.get("embedding_label", nothing)
    svg, caption = scatter(points, labels, arrays.get("embedding_group", nothing), names)
    return Panel(cell, "Last-layer activations (t-SNE)", caption, "embedding", svg=svg)


def sheet(maps: Array) -> Array:
    """K x K pictures (K, K, C, H, W) as one (C, K * (H + 1), K * (W + 1)).

    A transparent line of one pixel follows each picture, so that all take the same room.

    >>> sheet(np.zeros((2, 2, 1, 4, 3))).shape
    (1, 10, 8)
    """
    rows, columns, channels, height, width = maps.shape
    out = np.full((rows, columns, channels, height + 1, width + 1), np.nan)
    out[..., :-1, :-1] = maps
    whole = out.transpose(2, 0, 3, 1, 4)
    return whole.reshape(channels, rows * (height + 1), columns * (width + 1))


def shares_of(counts: Array) -> Array:
    """Counts (K, K) as shares of their row; an empty row is all zeros.

    >>> shares_of(np.array([[3.0, 1.0], [0.0, 0.0]])).tolist()
    [[0.75, 0.25], [0.0, 0.0]]
    """
    filled = np.nan_to_num(counts)
    totals = filled.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(filled, totals, out=np.zeros_like(filled), where=totals > 0))


def labels_of(names: Sequence[str], roles: Mapping[int, str] | None = None) -> list[Label]:
    """Every class, in order."""
    roles = roles or {}
    return [Label(k, words.short(name), name, roles.get(k, "")) for k, name in enumerate(names)]


def counts_grid(counts: Array, classes: Sequence[Label]) -> Grid:
    """A table of counts; errors are shaded by the root of their share, so that few still show.

    The pair of source and target is marked, where the classes have these roles.
    """
    shares = shares_of(counts)

    def cell(row: Label, column: Label) -> TableCell:
        count, share = counts[row.index, column.index], float(shares[row.index, column.index])
        right = row.index == column.index
        return TableCell(
            text=words.number(float(count)),
            shade=round(100 * (share if right else share**0.5), 1),
            kind="none" if not count > 0 else "right" if right else "wrong",
            marked=(row.role, column.role) == ("source", "target"),
            title=f"true {row.full}, predicted {column.full}: {words.percent(share)} of the row",
        )

    return Grid(classes, classes, [[cell(row, column) for column in classes] for row in classes])


def counts_picture(counts: Array, names: Sequence[str]) -> tuple[Picture | None, str]:
    """One pixel a count, blue where right and orange where wrong, and the worst in words."""
    shares = shares_of(counts)
    errors = shares.copy()
    np.fill_diagonal(errors, 0.0)
    signed = np.sqrt(errors) - np.diag(np.diag(shares))
    worst = np.argsort(-errors, axis=None, kind="stable")[:NAMED_CONFUSIONS]
    pairs = [divmod(int(at), len(counts)) for at in worst if errors.flat[at] > 0]
    caption = "; ".join(f"{names[a]} as {names[b]} {words.percent(errors[a, b])}" for a, b in pairs)
    shown = images.signed(signed[None], Scale(-1.0, 1.0))
    return shown, f"Most confused: {caption}." if caption else "Nothing is confused."


def scores_grid(scores: Array, classes: Sequence[Label]) -> Grid:
    """Scores of (source, target) pairs, shaded from the least to the greatest."""
    scale = images.shared_scale(scores)

    def cell(row: Label, column: Label) -> TableCell:
        score = float(scores[row.index, column.index])
        known = math.isfinite(score)
        level = (score - scale.low) / (scale.high - scale.low) if known else 0.0
        return TableCell(
            text=words.aligned(score, max(abs(scale.low), abs(scale.high))),
            shade=round(100 * level, 1),
            kind="score" if known else "none",
            marked=(row.role, column.role) == ("source", "target"),
            title=f"{row.full} to {column.full}",
        )

    return Grid(classes, classes, [[cell(row, column) for column in classes] for row in classes])


DRAWN: dict[str, Drawing] = {
    "examples_clean": Drawing("MCHW", _examples),
    "examples_changed": Drawing("MCHW", _examples, ("examples_clean",)),
    "maps_suspect": Drawing("KCHW", _maps, ("map_share_suspect",)),
    "maps_reference": Drawing("KCHW", _maps, ("map_share_reference",)),
    "map_share_suspect": Drawing("K", _maps, ("maps_suspect",), alone=False),
    "map_share_reference": Drawing("K", _maps, ("maps_reference",), alone=False),
    "pair_maps_suspect": Drawing("KKCHW", _pair_maps),
    "pair_maps_reference": Drawing("KKCHW", _pair_maps),
    "difference": Drawing("CHW", _difference),
    "trigger": Drawing("CHW", _trigger),
    "confusion_clean": Drawing("KK", _confusions),
    "confusion_stamped": Drawing("KK", _confusions),
    "mean_images": Drawing("KCHW", _confusions),
    "mean_stamped": Drawing("KCHW", _confusions),
    "embedding": Drawing("N2", _embedding, ("embedding_label", "embedding_group")),
    "embedding_label": Drawing("N", _embedding, ("embedding",), alone=False),
    "embedding_group": Drawing("N", _embedding, ("embedding",), alone=False),
    "pair_scores": Drawing("KK", _scores),
    "grid_clean": Drawing("GCHW", _examples, alone=False),
    "grid_labels": Drawing("G", _examples, alone=False),
    "grid_wanted": Drawing("G", _examples, alone=False),
    "grid_adversarial": Drawing("GCHW", _examples, alone=False),
    "grid_predicted": Drawing("G", _examples, alone=False),
}
"""Every array that a cell may have. Letters of a shape are numbers that a cell's arrays share:
K classes, C x H x W images, M examples, N points, G images of a gallery (a view of its own)."""
