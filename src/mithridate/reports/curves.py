"""Charts of a study's cells: values against an axis, and what distance or queries buy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mithridate.reports import plot, select, words
from mithridate.reports.class_bars import classes
from mithridate.reports.plot import Axis, Line, Point
from mithridate.reports.schema import Cell, Column, Mean, Proportion, Scalar, Study, Value, View
from mithridate.reports.summary import over, point
from mithridate.reports.values import number

__all__ = ["budget", "classes", "curve", "queries", "reached"]

DISTANCES = {"l2": "L2 distance", "linf": "Linf distance"}


def reached(values: Sequence[float], n: int) -> list[tuple[float, float]]:
    """Share of `n` images reached within each value: the steps of the empirical curve.

    >>> reached([2.0, 1.0, 2.0], 4)
    [(1.0, 0.25), (2.0, 0.75)]
    """
    steps, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
    return [(float(v), int(k) / n) for v, k in zip(steps, counts.cumsum(), strict=True)]


def budget(view: View, study: Study, cells: list[Cell], images: pa.Table | None) -> str:
    """Share of images fooled within a distance, a line a cell.

    Of the images that were classified rightly before the attack, as in an attack's success. A
    line ends below 1 where images were never fooled.
    """
    return _bought(view, cells, images, view.distance, DISTANCES[view.distance])


def queries(view: View, study: Study, cells: list[Cell], images: pa.Table | None) -> str:
    """Share of images fooled within so many queries, a line a cell, as `budget`.

    Images of which the queries are not told are left out, and counted in the caption.
    """
    return _bought(view, cells, images, "queries", "queries")


def curve(view: View, study: Study, cells: list[Cell], images: pa.Table | None) -> str:
    """A value against an axis, a line for each label of `series` and of every further axis.

    Bands and stems are the 95 % intervals: the cells' own, or over the labels of `view.over`
    Student's t. A line is broken where a cell has no value.
    """
    column = study.columns.get(view.value, Column(title=view.value))
    places, x = _across(view.x, select.axes_of(cells).get(view.x, []))
    moving = [axis for axis in select.varying(cells) if axis not in (view.x, view.over)]
    if view.series in moving:
        moving = [view.series, *(axis for axis in moving if axis != view.series)]
    found: dict[str, list[tuple[float, Value]]] = {}
    for group in select.groups(cells, view.over):
        if view.x in group.axes:
            name = select.title_of(group.axes, moving) or column.title
            value = _merged([cell.values.get(view.value) for cell in group.done])
            found.setdefault(name, []).append((places[_key(group.axes[view.x])], value))
    lines = [_line(name, line, column) for name, line in found.items()]
    ends = [end for line in lines for run in line.runs for p in run for end in (p.low, p.y, p.high)]
    numbers = [end for end in ends if end is not None]
    if not numbers:
        return plot.absent(f"{view.title or column.title}: not run.")
    y = plot.value_axis(column.title, numbers, column.unit)
    title = view.title or f"{column.title} by {view.x}"
    return plot.chart(title, x, y, lines, _explained(view, lines))


def _key(label: Scalar) -> tuple[bool, Scalar]:
    return isinstance(label, bool), label


def _across(title: str, labels: Sequence[Scalar]) -> tuple[dict[tuple[bool, Scalar], float], Axis]:
    """Where each label stands: numbers by their size, all others side by side."""
    sizes = [
        float(label)
        for label in labels
        if isinstance(label, int | float) and not isinstance(label, bool)
    ]
    if sizes and len(sizes) == len(labels):
        return dict(zip(map(_key, labels), sizes, strict=True)), plot.label_axis(title, sizes)
    axis = plot.named_axis(title, [select.name(label) for label in labels])
    return {_key(label): float(at) for at, label in enumerate(labels)}, axis


def _merged(values: Sequence[Value]) -> Value:
    """The one value, or the mean of several cells with its t interval."""
    if len(values) == 1:
        return values[0]
    return over(values)


def _line(name: str, found: Sequence[tuple[float, Value]], column: Column) -> Line:
    """The line through what was measured, from left to right, broken at what was not."""
    runs: list[list[Point]] = [[]]
    for place, value in sorted(found, key=lambda pair: pair[0]):
        middle = point(value)
        if middle is None:
            runs.append([])
        elif isinstance(value, Proportion | Mean):
            runs[-1].append(Point(place, middle, value.low, value.high))
        else:
            runs[-1].append(Point(place, middle))
    points = [p for run in runs for p in run]
    ends = [number(p.y, column.unit) for p in (points[:1] + points[1:][-1:])]
    return Line(name, tuple(tuple(run) for run in runs if run), " to ".join(ends) or "not run")


def _explained(view: View, lines: Sequence[Line]) -> str:
    has_intervals = any(p.low is not None for line in lines for run in line.runs for p in run)
    sentences = []
    if has_intervals:
        over = f", over {view.over} where there are several (Student's t)" if view.over else ""
        sentences.append(f"Bands and stems: 95{words.GAP}% intervals{over}.")
    if any(len(line.runs) != 1 for line in lines):
        sentences.append("A line is broken, or missing, where nothing was measured.")
    return " ".join(sentences)


def _bought(view: View, cells: list[Cell], images: pa.Table | None, name: str, title: str) -> str:
    """The empirical curve of what an attack achieves within a cost."""
    moving = [axis for axis in select.varying(cells) if axis != view.over]
    groups = select.groups(cells, view.over)
    known = set() if images is None else set(pc.unique(images["cell"]).to_pylist())
    there = [group for group in groups if any(cell.id in known for cell in group.cells)]
    curves = [
        _Fooled.of(
            select.title_of(group.axes, moving) or "images",
            _rows(images, [cell.id for cell in group.cells]),
            name,
        )
        for group in there[: plot.MOST_LINES]
    ]
    costs = np.concatenate([np.empty(0), *(fooled.costs for fooled in curves)])
    what = view.title or f"Share of images fooled by {title}"
    if not curves or all(fooled.n == 0 for fooled in curves):
        return plot.absent(f"{what}: not run.")
    axis = plot.spread_axis if name == "queries" and costs.size else _from_zero
    x = axis(title, costs.tolist())
    lines = [fooled.line(x, title) for fooled in curves if fooled.n]
    caption = _left_out(view, groups, there, curves)
    total = len(there) - sum(fooled.n == 0 for fooled in curves)
    return plot.chart(what, x, plot.share_axis("images fooled"), lines, caption, total)


def _from_zero(title: str, values: Sequence[float]) -> Axis:
    return plot.value_axis(title, values, "number")


def _rows(images: pa.Table | None, cells: Sequence[str]) -> pa.Table:
    assert images is not None, "a group is there only if the table has rows of it"
    return images.filter(pc.is_in(images["cell"], value_set=pa.array(cells, pa.string())))


@dataclass(frozen=True)
class _Fooled:
    """What it cost to fool the `costs.size` of `n` images that were fooled.

    `hidden` images do not tell their cost; `wrong` ones were misclassified from the start.
    """

    name: str
    costs: NDArray[np.float64]
    n: int
    hidden: int
    wrong: int

    @classmethod
    def of(cls, name: str, rows: pa.Table, cost: str) -> _Fooled:
        right = pc.equal(rows["label"], rows["clean"])
        mine = rows.filter(right)
        counted = mine.filter(pc.is_valid(mine[cost]))
        costs = np.asarray(counted.filter(counted["success"])[cost], np.float64)
        return cls(
            name,
            np.sort(costs[np.isfinite(costs)]),
            len(counted),
            len(mine) - len(counted),
            len(rows) - len(mine),
        )

    def line(self, x: Axis, title: str) -> Line:
        """The steps over the whole width of the axis, and in words where they end."""
        steps = reached(self.costs.tolist(), self.n)
        last = steps[-1][1] if steps else 0.0
        points = [Point(x.low, 0.0), *(Point(*step) for step in steps), Point(x.high, last)]
        summary = f"{words.percent(last)} of {self.n:,}"
        if len(self.costs):
            summary += f", median {words.number(float(np.median(self.costs)))}"
        return Line(self.name, (tuple(points),), summary, steps=True)


def _left_out(
    view: View,
    groups: Sequence[select.Group],
    there: Sequence[select.Group],
    curves: Sequence[_Fooled],
) -> str:
    """What the chart is about, and what it leaves out."""
    sentences = ["Of the images classified rightly before the attack; median: of those fooled."]
    if view.over:
        sentences.append(f"Images of every {view.over} together.")
    wrong = sum(fooled.wrong for fooled in curves)
    if wrong:
        sentences.append(f"Misclassified from the start and left out: {wrong:,}.")
    hidden = [f"{fooled.name} {fooled.hidden:,}" for fooled in curves if fooled.hidden]
    if hidden:
        sentences.append(f"Left out since their {view.kind} are not told: {', '.join(hidden)}.")
    if len(there) < len(groups):
        sentences.append(
            f"Without images in the records: {len(groups) - len(there)} of {len(groups)}."
        )
    return " ".join(sentences)
