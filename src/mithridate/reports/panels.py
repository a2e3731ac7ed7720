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
from mithridate.reports.scatter import Embedding, scatter
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
    role: str = ""


@dataclass(frozen=True)
class TableCell:
    """One shaded cell; `shade` in percent; `kind` is "right", "wrong", "none" or "score"."""

    text: str
    shade: float
    kind: str
    title: str
    marked: bool


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
    across, down = (left, right - left), (top, bottom - top)
    start, wide = (round(100 * pixels / width, 3) for pixels in across)
    upper, tall = (round(100 * pixels / height, 3) for pixels in down)
    return Box(start, upper, wide, tall)


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
    tiles: Sequence[Tile]
    role: str = ""


@dataclass(frozen=True)
class Part:
    """A confusion matrix as a table or a picture, with mean images below; or a contact sheet: one
    picture of many maps, with `names` along both sides."""

    title: str
    grid: Grid | None = None
    tile: Tile | None = None
    means: Sequence[Column] = ()
    names: Sequence[str] = ()


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

    "examples" and "maps": `columns`; "heat": the tiles of one column; "sheets" and "counts":
    `parts`; "embedding": `embedding`. `cell` is the title of the cell they belong to.
    """

    title: str
    caption: str
    kind: Literal["examples", "maps", "heat", "sheets", "counts", "embedding"]
    columns: Sequence[Column] = ()
    parts: Sequence[Part] = ()
    embedding: Embedding | None = None
    bars: Sequence[Bar] = ()
    cell: str = ""


def grey_bar(scale: Scale, text: str) -> Bar:
    """From black to white."""
    return Bar("grey", words.number(scale.low, 2), words.number(scale.high, 2), text)


def signed_bar(scale: Scale, text: str) -> Bar:
    """From blue through clear to orange."""
    return Bar("signed", words.number(scale.low, 2), f"+{words.number(scale.high, 2)}", text)


def only(shown: int, total: int, which: str = "") -> str:
    """What to say where not all classes are shown.

    >>> only(24, 100, "the first"), only(10, 10)
    (' 24 of 100 classes are shown, the first.', '')
    """
    which = f", {which}" if which else ""
    return f" {shown} of {total} classes are shown{which}." if shown < total else ""


class Drawing(NamedTuple):
    """How an array is drawn.

    Attributes:
        shape: a letter or number per axis.
        draw: makes the panel from all the arrays that it takes.
        beside: arrays that the panel needs to say all.
        alone: False where the array says nothing without those beside it.
    """

    shape: str
    draw: Callable[[Arrays, Sequence[str]], Panel]
    beside: tuple[str, ...] = ()
    alone: bool = True


def pictures(title: str, arrays: Mapping[str, Array], class_names: Sequence[str]) -> list[Panel]:
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
    count = check(checked).get("K", 0)
    draws = dict.fromkeys(d.draw for name, d in DRAWN.items() if name in arrays and d.alone)
    names = [*class_names, *(str(k) for k in range(len(class_names), count))]
    return [replace(draw(checked, names), cell=title) for draw in draws]


def with_companions(names: Iterable[str]) -> list[str]:
    """The arrays that a view names, and those without which these are not fully drawn.

    >>> with_companions(["maps_suspect"])
    ['maps_suspect', 'map_share_suspect']
    """
    wanted = list(names)
    beside = [other for name in wanted if name in DRAWN for other in DRAWN[name].beside]
    return list(dict.fromkeys([*wanted, *beside]))


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


def _examples(arrays: Arrays, names: Sequence[str]) -> Panel:
    held = {kind: arrays.get(f"examples_{kind}") for kind in ("clean", "changed")}
    shown = {kind: array for kind, array in held.items() if array is not None}
    change = shown["changed"] - shown["clean"] if len(shown) == 2 else None
    factor = enlargement(change)
    reach = Scale(-1 / factor, 1 / factor)
    count = min(len(array) for array in shown.values())
    label = "difference" if factor == 1 else f"difference × {words.number(factor)}"
    columns = []
    for at in range(min(count, MOST_EXAMPLES)):
        title = f"image {at + 1}"
        tiles = [Tile(images.plain(a[at]), f"{title}, {kind}", kind) for kind, a in shown.items()]
        if change is not None:
            tiles.append(Tile(images.signed(change[at], reach), f"{title}, {label}", label))
        columns.append(Column(str(at + 1), title, tiles))
    caption, bars = [], []
    if change is not None:
        times = f"enlarged {words.number(factor)} times" if factor > 1 else "not enlarged"
        caption.append(f"The difference is {times}.")
        bars.append(signed_bar(reach, "changed minus clean"))
    if count > MOST_EXAMPLES:
        caption.append(f"{MOST_EXAMPLES} of {count} images are shown.")
    return Panel("Clean and changed images", " ".join(caption), "examples", columns, bars=bars)


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


def _maps(arrays: Arrays, names: Sequence[str]) -> Panel:
    maps = [arrays[f"maps_{model}"] for model in MODELS if f"maps_{model}" in arrays]
    classes, note = _most_different(maps)
    labels = labels_of(names)
    panel = maps_of(arrays, [labels[k] for k in classes])
    return replace(panel, caption=panel.caption + note)


def maps_of(arrays: Arrays, classes: Sequence[Label], region: Box | None = None) -> Panel:
    """Maps of these classes: both models on one scale, their difference on another.

    `region` is outlined on the maps of the target.
    """
    maps = {model: arrays[f"maps_{model}"] for model in MODELS if f"maps_{model}" in arrays}
    shares = {m: arrays[f"map_share_{m}"] for m in maps if f"map_share_{m}" in arrays}
    scale = images.shared_scale(*maps.values())
    change = maps["suspect"] - maps["reference"] if len(maps) > 1 else None
    strongest = None if change is None else np.stack([images.strongest_channel(d) for d in change])
    reach = images.signed_scale(strongest)
    columns = []
    for label in classes:
        outline = region if label.role == "target" else None
        tiles = []
        for model, array in maps.items():
            note = words.percent(float(shares[model][label.index])) if model in shares else ""
            picture = images.plain(array[label.index], scale)
            alt = f"map of {label.full}, {model}"
            tiles.append(Tile(picture, alt, model, note, region=outline))
        if change is not None:
            picture = images.signed(change[label.index], reach)
            tiles.append(Tile(picture, f"difference of the maps of {label.full}", "difference"))
        columns.append(Column(label.name, label.full, tiles, label.role))
    caption = "The mean crafted image of each class that the model predicts."
    bars = [grey_bar(scale, f"map value{', both models' if change is not None else ''}")]
    if change is not None:
        caption += " The reference is on the suspect's scale, their difference on its own."
        bars.append(signed_bar(reach, "suspect minus reference"))
    if shares:
        caption += " The percentage is the share of crafted images under that class."
    return Panel("Bias maps", caption, "maps", columns, bars=bars)


def _pair_maps(arrays: Arrays, names: Sequence[str]) -> Panel:
    maps = {m: arrays[f"pair_maps_{m}"] for m in MODELS if f"pair_maps_{m}" in arrays}
    scale = images.shared_scale(*maps.values())
    classes, note = _most_different(list(maps.values()))
    shown = [words.short(names[k]) for k in classes]
    sheets = []
    for model, array in maps.items():
        picture = images.plain(sheet(array[np.ix_(classes, classes)]), scale)
        alt = f"maps of all pairs, {model}: a row per source, a column per target"
        sheets.append(Part(model, tile=Tile(picture, alt), names=shown))
    caption = "Rows: source. Columns: target. A pair that was not looked at is left empty."
    bar = grey_bar(scale, "map value, one scale for the panel")
    return Panel("Bias maps of pairs", caption + note, "sheets", parts=sheets, bars=[bar])


def _most_different(maps: Sequence[Array]) -> tuple[list[int], str]:
    """All classes in order, or the `MOST_CLASSES` in whose maps two models differ most."""
    total = len(maps[0])
    if total <= MOST_CLASSES:
        return list(range(total)), ""
    apart = np.nan_to_num(maps[0] - maps[-1] if len(maps) > 1 else maps[0])
    by_class = (apart**2).reshape(total, -1).sum(axis=1)
    if maps[0].ndim == 5:
        by_class = by_class + (apart**2).sum(axis=(0, 2, 3, 4))
    classes = sorted(np.argsort(-by_class, kind="stable")[:MOST_CLASSES].tolist())
    return classes, only(MOST_CLASSES, total, "those whose maps differ most")


def _confusions(arrays: Arrays, names: Sequence[str]) -> Panel:
    parts, caption = [], []
    for state, title, key in (
        ("clean", "Clean test images", "mean_images"),
        (
            "stamped",
            "Test images, stamped where the attack aims, else as they were",
            "mean_stamped",
        ),
    ):
        counts, means = arrays.get(f"confusion_{state}"), arrays.get(key)
        grid, tile, columns = None, None, []
        if counts is not None and len(counts) <= MOST_CLASSES:
            grid = counts_grid(counts, labels_of(names[: len(counts)]))
        elif counts is not None:
            picture, worst = counts_picture(counts, names)
            tile = Tile(picture, f"{title}: {worst}", note=worst)
        for name, mean in zip(names[:MOST_CLASSES], () if means is None else means, strict=False):
            alt = f"mean image of {name}, {title.lower()}"
            columns.append(Column(words.short(name), name, [Tile(images.plain(mean), alt)]))
        if counts is not None or means is not None:
            parts.append(Part(title, grid, tile, columns))
    confused = any(part.grid or part.tile for part in parts)
    if confused:
        caption.append("Rows: true class. Columns: predicted class. Shade: share of the row.")
    shown = [len(part.means) for part in parts if part.means]
    if shown:
        total = len(arrays["mean_images" if "mean_images" in arrays else "mean_stamped"])
        caption.append("Mean image of each true class, from black at 0 to white at 1.")
        caption[-1] += only(shown[0], total, "the first")
    title = "Confusion of classes" if confused else "Mean images"
    return Panel(title, " ".join(caption), "counts", parts=parts)


def _difference(arrays: Arrays, names: Sequence[str]) -> Panel:
    array = arrays["difference"]
    reach = images.signed_scale(images.strongest_channel(array))
    caption = "The suspect's map of the target minus the reference's."
    if len(array) > 1:
        caption += " Of each pixel, the channel that differs most."
    tile = Tile(images.signed(array, reach), "difference of the target's maps", clear=_holes(array))
    bar = signed_bar(reach, "suspect darker – suspect brighter")
    return _heat("Difference of maps", caption, tile, bar)


def _trigger(arrays: Arrays, names: Sequence[str]) -> Panel:
    """Pixel values as they are; a pattern with values below zero in diverging colours."""
    array = arrays["trigger"]
    chequered = "Chequered where it leaves the image alone." if _holes(array) else ""
    if np.nanmin(array, initial=0.0) < 0:
        reach = images.signed_scale(array)
        picture, bar = images.signed(array, reach), signed_bar(reach, "added to the image")
    else:
        picture, bar = images.plain(array), grey_bar(Scale(0.0, 1.0), "pixel value")
    tile = Tile(picture, "recovered trigger", clear=_holes(array))
    return _heat("Recovered trigger", chequered, tile, bar)


def _heat(title: str, caption: str, tile: Tile, bar: Bar) -> Panel:
    return Panel(title, caption, "heat", [Column("", "", [tile])], bars=[bar])


def _holes(array: Array) -> bool:
    """Whether some pixels are transparent."""
    return not bool(np.isfinite(array).all())


def _scores(arrays: Arrays, names: Sequence[str]) -> Panel:
    scores = arrays["pair_scores"]
    classes = labels_of(names[: len(scores)])[:MOST_CLASSES]
    caption = "Rows: source. Columns: target. A pair that was not looked at is a dash."
    caption += only(len(classes), len(scores), "the first")
    part = Part("Score of every pair", scores_grid(scores, classes))
    return Panel("Scores of pairs", caption, "counts", parts=[part])


def _embedding(arrays: Arrays, names: Sequence[str]) -> Panel:
    points = arrays["embedding"]
    nothing = np.zeros(len(points))
    labels, group = (arrays.get(f"embedding_{what}", nothing) for what in ("label", "group"))
    drawn, caption = scatter(points, labels, group, names)
    return Panel("Last-layer activations (t-SNE)", caption, "embedding", embedding=drawn)


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


def labels_of(names: Sequence[str], roles: Mapping[int, str] | None = None) -> list[Label]:
    """Every class, in order."""
    roles = roles or {}
    return [Label(k, words.short(name), name, roles.get(k, "")) for k, name in enumerate(names)]


def counts_grid(counts: Array, classes: Sequence[Label]) -> Grid:
    """A table of counts; errors are shaded by the root of their share, so that few still show.

    The pair of source and target is marked, where the classes have these roles.
    """
    shares = _shares(counts)

    def cell(row: Label, column: Label) -> tuple[str, float, str, str]:
        count, share = counts[row.index, column.index], float(shares[row.index, column.index])
        right = row.index == column.index
        shade = share if right else share**0.5
        kind = "none" if not count > 0 else "right" if right else "wrong"
        title = f"true {row.full}, predicted {column.full}: {words.percent(share)} of the row"
        return words.number(float(count)), shade, kind, title

    return _square(classes, cell)


def scores_grid(scores: Array, classes: Sequence[Label]) -> Grid:
    """Scores of (source, target) pairs, shaded from the least to the greatest."""
    scale = images.shared_scale(scores)
    top = max(abs(scale.low), abs(scale.high))

    def cell(row: Label, column: Label) -> tuple[str, float, str, str]:
        score = float(scores[row.index, column.index])
        known = math.isfinite(score)
        shade = (score - scale.low) / (scale.high - scale.low) if known else 0.0
        kind = "score" if known else "none"
        return words.aligned(score, top), shade, kind, f"{row.full} to {column.full}"

    return _square(classes, cell)


def _square(
    classes: Sequence[Label], cell: Callable[[Label, Label], tuple[str, float, str, str]]
) -> Grid:
    """A cell for each pair of classes, from its text, shade (0 to 1), kind and title."""

    def shown(row: Label, column: Label) -> TableCell:
        text, shade, kind, title = cell(row, column)
        marked = (row.role, column.role) == ("source", "target")
        return TableCell(text, round(100 * shade, 1), kind, title, marked)

    return Grid(classes, classes, [[shown(row, column) for column in classes] for row in classes])


def counts_picture(counts: Array, names: Sequence[str]) -> tuple[Picture | None, str]:
    """One pixel a count, blue where right and orange where wrong, and the worst in words."""
    shares = _shares(counts)
    errors = shares.copy()
    np.fill_diagonal(errors, 0.0)
    signed = np.sqrt(errors) - np.diag(np.diag(shares))
    worst = np.argsort(-errors, axis=None, kind="stable")[:NAMED_CONFUSIONS]
    pairs = [divmod(int(at), len(counts)) for at in worst if errors.flat[at] > 0]
    caption = "; ".join(f"{names[a]} as {names[b]} {words.percent(errors[a, b])}" for a, b in pairs)
    shown = images.signed(signed[None], Scale(-1.0, 1.0))
    return shown, f"Most confused: {caption}." if caption else "Nothing is confused."


def _shares(counts: Array) -> Array:
    """Counts (K, K) as shares of their row; an empty row is all zeros."""
    filled = np.nan_to_num(counts)
    totals = filled.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(filled, totals, out=np.zeros_like(filled), where=totals > 0))


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
