"""A value per class as bars, one small chart a cell: figure 8 of Borji 2020."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from mithridate.reports import plot, select, words
from mithridate.reports.images import MOST_CLASSES
from mithridate.reports.plot import short, text
from mithridate.reports.schema import Cell, Column, Study, View
from mithridate.reports.values import number

HEIGHT = 96
"""Of the tallest bar, in pixels."""
MOST_CHARTS = 60
LEVEL = 3
"""Letters of the longest class name that is written level below its bar."""

ROLES = {"source": "S", "target": "T"}


def classes(view: View, study: Study, cells: list[Cell], images: pa.Table | None) -> str:
    """`view.value` of each class as a bar, `view.reference` as a line across it.

    Every chart has its own scale from zero, whose top it tells. The classes in a cell's values
    "source" and "target" are marked.
    """
    column = study.columns.get(view.value, Column(title=view.value))
    reference = study.columns.get(view.reference, Column(title=view.reference))
    moving, done = select.varying(cells), [cell for cell in cells if cell.status == select.DONE]
    there = [cell for cell in done if any(v is not None for v in select.list_of(cell, view.value))]
    if not there:
        return plot.absent(f"{view.title or column.title}: not run.")
    charts = [
        _chart(cell, view, column, select.names_of(study, cell), select.title_of(cell.axes, moving))
        for cell in there[:MOST_CHARTS]
    ]
    sentences = ["Each chart has its own scale, from zero to the number at its top."]
    if len(there) > len(charts):
        sentences.append(f"Drawn are the first {len(charts)} of {len(there)} cells.")
    if len(there) < len(cells):
        sentences.append(f"Without this value: {len(cells) - len(there)} of {len(cells)} cells.")
    key = f'<span class="key-bar">{text(column.title)}</span>'
    if view.reference:
        key += f'<span class="key-mark">{text(reference.title)}</span>'
    if any(select.whole_of(cell, role) is not None for cell in there for role in ROLES):
        key += '<span class="key-role">S source, T target</span>'
    return (
        f'<figure class="plot"><p class="bars-key">{key}</p><div class="class-charts">'
        f"{''.join(charts)}</div><figcaption>{text(' '.join(sentences))}</figcaption>"
        "</figure>"
    )


def _chart(cell: Cell, view: View, column: Column, names: Sequence[str], title: str) -> str:
    values, beside = select.list_of(cell, view.value), select.list_of(cell, view.reference)
    count = len(values)
    names = names if len(names) == count else [str(k) for k in range(count)]
    there = [value for value in [*values, *beside] if value is not None]
    low, high = min([0.0, *there]), max([0.0, *there])
    span = (high - low) or 1.0

    def height(value: float) -> float:
        return HEIGHT * (high - value) / span if high > low else HEIGHT

    roles = [_role(cell, k) for k in range(count)]
    slots = [
        _Slot(k, count, role, name) for k, (role, name) in enumerate(zip(roles, names, strict=True))
    ]
    bars = "".join(slot.bar(values[slot.at], height, column.unit) for slot in slots)
    bars += "".join(slot.mark(value, height) for slot, value in zip(slots, beside, strict=False))
    foot, labels = _labels(slots)
    base = short(height(0.0))
    wide = " many" if count > MOST_CLASSES else ""
    marked = ", ".join(f"{ROLES[slot.role]} {text(slot.name)}" for slot in slots if slot.role)
    marked = f' <span class="bar-role">{marked}</span>' if wide and marked else ""
    description = _described(values, names, slots, column)
    return (
        f'<div class="class-chart{wide}"><p><bdi>{text(title or cell.id)}</bdi>{marked}</p>'
        f'<svg class="plot-area" role="img" height="{HEIGHT + foot}">'
        f"<title>{text(title or cell.id)}</title><desc>{text(description)}</desc>"
        f'<line class="plot-rule" x1="0" x2="100%" y1="0" y2="0"/>'
        f'<text x="-6" y="0" dy=".35em" text-anchor="end">{text(number(high, column.unit))}</text>'
        f'<line class="plot-axis" x1="0" x2="100%" y1="{base}" y2="{base}"/>{bars}{labels}'
        "</svg></div>"
    )


@dataclass(frozen=True)
class _Slot:
    """The place of one class among `count`."""

    at: int
    count: int
    role: str
    name: str

    @property
    def middle(self) -> float:
        """In percent of the width."""
        return 100 * (self.at + 0.5) / self.count

    def across(self, share: float) -> tuple[str, str]:
        """Left end and width of something that takes this share of the place."""
        width = 100 * share / self.count
        return short(self.middle - width / 2), short(width)

    def bar(self, value: float | None, height: Callable[[float], float], unit: str) -> str:
        """From zero to the value; no bar where there is no value."""
        left, width = self.across(0.72)
        if value is None or not math.isfinite(value):
            return f'<text class="bar-none" x="{short(self.middle)}%" y="{HEIGHT - 4}">–</text>'
        top, tall = min(height(value), height(0.0)), abs(height(value) - height(0.0))
        title = text(f"{self.name}: {number(value, unit)}")
        return (
            f'<rect class="bar {self.role}" x="{left}%" width="{width}%" y="{short(top)}" '
            f'height="{short(tall)}"><title>{title}</title></rect>'
        )

    def mark(self, value: float | None, height: Callable[[float], float]) -> str:
        """A line across the place at the value of the reference."""
        if value is None or not math.isfinite(value):
            return ""
        left, width = self.across(0.96)
        return (
            f'<rect class="bar-mark" x="{left}%" width="{width}%" '
            f'y="{short(height(value) - 1)}" height="2"/>'
        )


def _labels(slots: Sequence[_Slot]) -> tuple[int, str]:
    """Height below the bars, and the names: all where they fit, else about ten of them."""
    longest = max((len(words.short(slot.name)) for slot in slots), default=0)
    upright = longest > LEVEL or len(slots) > MOST_CLASSES
    every = 1 if len(slots) <= MOST_CLASSES else math.ceil(len(slots) / 10)
    out = []
    for slot in slots[::every]:
        name, letter = text(words.short(slot.name)), ROLES.get(slot.role, "") if every == 1 else ""
        style = f'class="{"bar-role" if letter else ""}"'
        place = f'<svg class="plot-tick" x="{short(slot.middle)}%" y="{HEIGHT + 6}">'
        if upright:
            label = f"{letter} {name}" if letter else name
            turned = 'text-anchor="end" transform="rotate(-90)"'
            out.append(f'{place}<text {style} {turned} dy=".35em">{label}</text></svg>')
        else:
            second = f'<tspan x="0" dy="1.15em">{letter}</tspan>' if letter else ""
            whole = f'<text {style} y="10" text-anchor="middle">{name}{second}</text>'
            out.append(f"{place}{whole}</svg>")
    return (14 + 7 * (longest + 2) if upright else 34), "".join(out)


def _described(
    values: Sequence[float | None], names: Sequence[str], slots: Sequence[_Slot], column: Column
) -> str:
    """The greatest value and the marked classes, in words."""
    there = {k: value for k, value in enumerate(values) if value is not None}
    top = max(there, key=lambda k: there[k])
    sentences = [
        f"{column.title} per class, greatest {number(there[top], column.unit)} at {names[top]}"
    ]
    for slot in slots:
        if slot.role:
            value = there.get(slot.at)
            shown = words.NONE if value is None else number(value, column.unit)
            sentences.append(f"{slot.role} {slot.name}: {shown}")
    return "; ".join(sentences) + "."


def _role(cell: Cell, at: int) -> str:
    """ "target" or "source" where the cell says that the class is one."""
    return next((role for role in ROLES if select.whole_of(cell, role) == at), "")
