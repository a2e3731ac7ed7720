"""What the pictures of a study are made of: panels of tiles, sheets and matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mithridate.reports import words
from mithridate.reports.folder import Array
from mithridate.reports.images import Picture, Scale
from mithridate.reports.panels import Grid


@dataclass(frozen=True)
class Tile:
    """One picture of a panel; None where there is nothing to show.

    Attributes:
        alt: what it is, for who cannot see it.
        label, note: printed beside it.
        clear: its background is chequered, as some pixels are transparent.
    """

    picture: Picture | None
    alt: str
    label: str = ""
    note: str = ""
    clear: bool = False


@dataclass(frozen=True)
class Column:
    """Pictures one below the other: of one class, or of one example."""

    name: str
    full: str
    tiles: tuple[Tile, ...]


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
