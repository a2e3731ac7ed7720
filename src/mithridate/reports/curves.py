"""Charts of a study's cells: values against an axis, and what distance or queries buy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mithridate.reports import plot, select, words
from mithridate.reports.attacks import AttackRow
from mithridate.reports.plot import Axis, Chart, Line, Point
from mithridate.reports.schema import Cell, Column, Mean, Proportion, Scalar, Study, Value, View
from mithridate.reports.summary import over, point
from mithridate.reports.values import number

DISTANCES = {"l2": "L2 distance", "linf": "Linf distance"}


def curve(
    view: View, study: Study, cells: list[Cell], images: pa.Table | None = None
) -> Chart | None:
    """A value against an axis, a line for each label of `series` and of every further axis.

    Bands and stems are the 95 % intervals: the cells' own, or over the labels of `view.over`
    Student's t. A line is broken where a cell has no value. None where none has one.
    """
    column = study.column(view.value)
    places, x = _across(view.x, select.axes_of(cells).get(view.x, []))
    moving = [axis for axis in select.varying(cells) if axis not in (view.x, view.over)]
    if view.series in moving:
        moving = [view.series, *(axis for axis in moving if axis != view.series)]
    by_name: dict[str, list[tuple[float, Value]]] = {}
    for group in select.groups(cells, view.over):
        if view.x in group.axes:
            name = select.title_of(group.axes, moving) or column.title
            values = [cell.values.get(view.value) for cell in group.done]
            value = values[0] if len(values) == 1 else over(values)
            by_name.setdefault(name, []).append((places[select.key(group.axes[view.x])], value))
    lines = [_line(name, measured, column) for name, measured in by_name.items()]
    points = [p for line in lines for run in line.runs for p in run]
    ends = [end for p in points for end in (p.low, p.y, p.high) if end is not None]
    if not ends:
        return None
    sentences = []
    if any(p.low is not None for p in points):
        several = f", over {view.over} where there are several (Student's t)" if view.over else ""
        sentences.append(f"Bands and stems: 95{words.GAP}% intervals{several}.")
    if any(len(line.runs) != 1 for line in lines):
        sentences.append("A line is broken, or missing, where nothing was measured.")
    title = view.title or f"{column.title} by {view.x}"
    y = plot.value_axis(column.title, ends, column.unit)
    return plot.chart(title, x, y, lines, " ".join(sentences))


def _across(title: str, labels: Sequence[Scalar]) -> tuple[dict[select.Key, float], Axis]:
    """Where each label stands: numbers by their size, all others side by side."""
    keys = [select.key(label) for label in labels]
    sizes = [
        float(label)
        for label in labels
        if isinstance(label, int | float) and not isinstance(label, bool)
    ]
    if sizes and len(sizes) == len(labels):
        return dict(zip(keys, sizes, strict=True)), plot.label_axis(title, sizes)
    names = [words.short(select.name(label)) for label in labels]
    ticks = tuple((float(at), name) for at, name in enumerate(names))
    return {key: float(at) for at, key in enumerate(keys)}, Axis(
        title, -0.5, len(names) - 0.5, ticks
    )


def _line(name: str, measured: Sequence[tuple[float, Value]], column: Column) -> Line:
    """The line through what was measured, from left to right, broken at what was not."""
    runs: list[list[Point]] = [[]]
    for place, value in sorted(measured, key=lambda pair: pair[0]):
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


def by_eps(rows: Sequence[AttackRow]) -> Chart | None:
    """Accuracy left against eps: a line for each attack of which there are several eps.

    None where there is none; attacks in several norms have several scales, and no chart.
    """
    lines: dict[str, list[tuple[float, Value]]] = {}
    for row in rows:
        if row.eps is not None and row.ran:
            name = re.sub(r" eps=\S+", "", row.name)
            lines.setdefault(name, []).append((row.eps, row.accuracy_left))
    several = {name: line for name, line in lines.items() if len({eps for eps, _ in line}) > 1}
    norms = {row.norm for row in rows if re.sub(r" eps=\S+", "", row.name) in several}
    if len(norms) != 1:
        return None
    column = Column(title="Accuracy left", unit="share")
    x = plot.label_axis(f"eps ({norms.pop()})", sorted({e for o in several.values() for e, _ in o}))
    drawn = [_line(name, line, column) for name, line in several.items()]
    text = f"Bands and stems: 95{words.GAP}% intervals."
    return plot.chart("Accuracy left within eps", x, plot.share_axis("accuracy left"), drawn, text)


def reached(values: Sequence[float], n: int) -> list[tuple[float, float]]:
    """Share of `n` images reached within each value: the steps of the empirical curve.

    >>> reached([2.0, 1.0, 2.0], 4)
    [(1.0, 0.25), (2.0, 0.75)]
    """
    steps, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
    return [(float(v), int(k) / n) for v, k in zip(steps, counts.cumsum(), strict=True)]


def bought(view: View, study: Study, cells: list[Cell], images: pa.Table | None) -> Chart | None:
    """Share of images fooled within a distance, or so many queries: a line a cell.

    Of the images that were classified rightly before the attack, as in an attack's success. A
    line ends below 1 where images were never fooled. Images of which the queries are not told are
    left out, and counted in the caption. None where no image was recorded.
    """
    cost = "queries" if view.kind == "queries" else view.distance
    title = DISTANCES.get(cost, cost)
    moving = [axis for axis in select.varying(cells) if axis != view.over]
    groups = select.groups(cells, view.over)
    known = set() if images is None else set(pc.unique(images["cell"]).to_pylist())
    there = [group for group in groups if any(cell.id in known for cell in group.cells)]
    curves = [
        _fooled(images, group, select.title_of(group.axes, moving) or "images", cost)
        for group in there[: plot.MOST_LINES]
    ]
    if images is None or all(fooled.n == 0 for fooled in curves):
        return None
    costs = [cost for fooled in curves for cost in fooled.costs.tolist()]
    if view.kind == "queries" and costs:
        x = plot.spread_axis(title, costs)
    else:
        x = plot.value_axis(title, costs, "number")
    sentences = ["Of the images classified rightly before the attack; median: of those fooled."]
    if view.over:
        sentences.append(f"Images of every {view.over} together.")
    wrong = sum(fooled.wrong for fooled in curves)
    if wrong:
        sentences.append(f"Misclassified from the start and left out: {wrong:,}.")
    hidden = [f"{fooled.name} {fooled.hidden:,}" for fooled in curves if fooled.hidden]
    if hidden:
        sentences.append(f"Left out since their {view.kind} are not told: {', '.join(hidden)}.")
    absent = len(groups) - len(there)
    if absent:
        sentences.append(f"Without images in the records: {absent} of {len(groups)}.")
    return plot.chart(
        view.title or f"Share of images fooled by {title}",
        x,
        plot.share_axis("images fooled"),
        [fooled.line(x) for fooled in curves if fooled.n],
        " ".join(sentences),
        len(there) - sum(fooled.n == 0 for fooled in curves),
    )


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

    def line(self, x: Axis) -> Line:
        """The steps over the whole width of the axis, and in words where they end."""
        steps = reached(self.costs.tolist(), self.n)
        last = steps[-1][1] if steps else 0.0
        points = [Point(x.low, 0.0), *(Point(*step) for step in steps), Point(x.high, last)]
        summary = f"{words.percent(last)} of {self.n:,}"
        if len(self.costs):
            summary += f", median {words.number(float(np.median(self.costs)))}"
        return Line(self.name, (tuple(points),), summary, steps=True)


def _fooled(images: pa.Table, group: select.Group, name: str, cost: str) -> _Fooled:
    ids = pa.array([cell.id for cell in group.cells], pa.string())
    rows = images.filter(pc.is_in(images["cell"], value_set=ids))
    right = rows.filter(pc.equal(rows["label"], rows["clean"]))
    counted = right.filter(pc.is_valid(right[cost]))
    costs = np.asarray(counted.filter(counted["success"])[cost], np.float64)
    finite = np.sort(costs[np.isfinite(costs)])
    return _Fooled(name, finite, len(counted), len(right) - len(counted), len(rows) - len(right))
