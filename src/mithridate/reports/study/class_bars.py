"""A value per class as bars, one small chart a cell: figure 8 of Borji 2020."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

from mithridate.reports import words
from mithridate.reports.panels import MOST_CLASSES
from mithridate.reports.study import plot, select
from mithridate.reports.study.plot import short, text
from mithridate.reports.study.schema import Cell, Column, Study, Value, View
from mithridate.reports.study.values import number

HEIGHT = 96
"""Of the tallest bar, in pixels."""
MOST_CHARTS = 60
LEVEL = 3
"""Letters of the longest class name that is written level below its bar."""

Role = Literal["", "source", "target"]


def classes(view: View, study: Study, cells: list[Cell], images: pa.Table | None) -> str:
    """`view.value` of each class as a bar, `view.reference` as a line across it.

    Every chart has its own scale from zero, whose top it tells. The classes in a cell's values
    "source" and "target" are marked.
    """
    column = study.columns.get(view.value, Column(title=view.value))
    reference = study.columns.get(view.reference, Column(title=view.reference))
    moving, done = select.varying(cells), [cell for cell in cells if cell.status == select.DONE]
    there = [cell for cell in done if any(v is not None for v in _list(cell, view.value))]
    if not there:
        return plot.absent(f"{view.title or column.title}: not run.")
    charts = [
        _chart(cell, view, column, names_of(study, cell), select.title_of(cell.axes, moving))
        for cell in there[:MOST_CHARTS]
    ]
    said = [view.note, "Each chart has its own scale, from zero to the number at its top."]
    if len(there) > len(charts):
        said.append(f"Drawn are the first {len(charts)} of {len(there)} cells.")
    if len(there) < len(cells):
        said.append(f"Without this value: {len(cells) - len(there)} of {len(cells)} cells.")
    key = f'<span class="key-bar">{text(column.title)}</span>'
    if view.reference:
        key += f'<span class="key-mark">{text(reference.title)}</span>'
    if any(_role(cell, k) for cell in there for k in range(len(_list(cell, view.value)))):
        key += '<span class="key-role">S source, T target</span>'
    return (
        f'<figure class="plot"><p class="bars-key">{key}</p><div class="class-charts">'
        f"{''.join(charts)}</div><figcaption>{text(' '.join(filter(None, said)))}</figcaption>"
        "</figure>"
    )


def names_of(study: Study, cell: Cell) -> list[str]:
    """Names of the classes of a cell's data set; none where the study does not tell.

    The data set is that of the axis "data", or the study's only one.
    """
    known, label = study.class_names, cell.axes.get("data")
    if isinstance(label, str) and label in known:
        return known[label]
    return next(iter(known.values())) if len(known) == 1 else []


def _chart(cell: Cell, view: View, column: Column, names: Sequence[str], title: str) -> str:
    values, beside = _list(cell, view.value), _list(cell, view.reference)
    count = len(values)
    names = names if len(names) == count else [str(k) for k in range(count)]
    there = [value for value in [*values, *beside] if value is not None]
    low, high = min([0.0, *there]), max([0.0, *there])
    span = (high - low) or 1.0

    def height(value: float) -> float:
        return HEIGHT * (high - value) / span if high > low else HEIGHT - HEIGHT * value

    bars = "".join(
        _bar(k, value, (*beside, *[None] * count)[k], names[k], _role(cell, k), count, height)
        for k, value in enumerate(values)
    )
    foot, labels = _labels(names, [_role(cell, k) for k in range(count)])
    base = short(height(0.0))
    said = _said(cell, values, names, column)
    return (
        f'<div class="class-chart"><p><bdi>{text(title or cell.id)}</bdi></p>'
        f'<svg class="plot-area" role="img" height="{HEIGHT + foot}">'
        f"<title>{text(title or cell.id)}</title><desc>{text(said)}</desc>"
        f'<line class="plot-rule" x1="0" x2="100%" y1="0" y2="0"/>'
        f'<text x="-6" y="0" dy=".35em" text-anchor="end">{number(high, column.unit)}</text>'
        f'<line class="plot-axis" x1="0" x2="100%" y1="{base}" y2="{base}"/>{bars}{labels}'
        "</svg></div>"
    )
