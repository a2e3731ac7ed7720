"""Grids over classes: confusion matrices as tables or as one picture, and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mithridate.reports import images, words
from mithridate.reports.folder import Array
from mithridate.reports.images import Picture, Scale
from mithridate.reports.panels import Grid, Label, TableCell

NAMED_CONFUSIONS = 3


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


def counts_grid(counts: Array, names: Sequence[str]) -> Grid:
    """A table of counts; errors are shaded by the root of their share, so that few still show."""
    classes = [Label(k, words.short(names[k]), names[k], "") for k in range(len(counts))]
    shares = shares_of(counts)

    def cell(row: Label, column: Label) -> TableCell:
        count, share = counts[row.index, column.index], float(shares[row.index, column.index])
        right = row.index == column.index
        return TableCell(
            text=words.number(float(count)),
            shade=round(100 * (share if right else share**0.5), 1),
            kind="none" if not count > 0 else "right" if right else "wrong",
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
    said = "; ".join(f"{names[a]} as {names[b]} {words.percent(errors[a, b])}" for a, b in pairs)
    shown = images.signed(signed[None], Scale(-1.0, 1.0))
    return shown, f"Most confused: {said}." if said else "Nothing is confused."
