"""Measured values to what a table shows of them: text, small print, sorting, and raw numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mithridate.reports import words
from mithridate.reports.schema import Column, Mean, Proportion, Scalar, Value
from mithridate.reports.select import DONE, NOT_RUN, name
from mithridate.reports.summary import over, pooled

Raw = Scalar


@dataclass(frozen=True)
class Entry:
    """One entry of a table.

    Attributes:
        text: what is seen first; `small` are the lines below it.
        sort: the number to sort by; None sorts by text, or last where `kind` is "none".
        kind: "number", "text", "none" (not run), "fail".
        span: columns that it takes.
        raw: suffix -> number at full precision, for CSV ("" is the value itself).
    """

    text: str
    small: tuple[str, ...] = ()
    sort: float | None = None
    kind: str = "number"
    title: str = ""
    span: int = 1
    raw: Mapping[str, Raw] = field(default_factory=dict)


MISSING = Entry(words.NONE, (NOT_RUN,), kind="none", title=NOT_RUN)
ABSENT = Entry(words.NONE, ("no such value",), kind="none", title="run, but not told here")
UNDEFINED = Entry("n/a", ("undefined",), kind="none", title="measured, but undefined here")


def none(why: str) -> Entry:
    """A dash, and why there is nothing."""
    return Entry(words.NONE, kind="none", title=why)


def absent(why: str) -> Entry:
    """What stands for a value that was not measured: a dash, or the failure."""
    return MISSING if why in (DONE, NOT_RUN) else Entry(why, kind="fail")


def label(value: Scalar) -> Entry:
    """A label of an axis."""
    sort = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        sort = float(value)
    return Entry(name(value), sort=sort, kind="text", raw={"": value})


def text(words_: str, sort: float | None = None, raw: Raw = None) -> Entry:
    """Plain text, or a number that is already in words."""
    kind = "text" if sort is None else "number"
    return Entry(words_, sort=sort, kind=kind, raw={"": words_ if raw is None else raw})


def entry(value: Value, column: Column, *, with_n: bool = True, top: float | None = None) -> Entry:
    """One value. `with_n` where its n is not said for the whole column.

    `top` is the greatest value of the column, where all are to have as many decimals.

    >>> half = Proportion(value=0.5, low=0.095, high=0.905, k=1, n=2)
    >>> shown = entry(half, Column(title="success", unit="share"))
    >>> shown.text.replace(words.GAP, " "), [s.replace(words.GAP, " ") for s in shown.small]
    ('50.0 %', ['9.5 to 90.5 %, 1 of 2'])
    """
    if value is None:
        return UNDEFINED
    if isinstance(value, Proportion | Mean):
        unit = "share" if isinstance(value, Proportion) else column.unit
        count = f"{value.k:,} of {value.n:,}" if isinstance(value, Proportion) else ""
        count = f", {count or f'n = {value.n:,}'}" if with_n else ""
        small = limits(value, unit, top) + count
        return Entry(number(value.value, unit, top), (small,), value.value, raw=_raw(value))
    if isinstance(value, bool):
        return Entry("yes" if value else "no", sort=float(value), kind="text", raw={"": value})
    if isinstance(value, int | float):
        return Entry(number(value, column.unit, top), sort=float(value), raw={"": value})
    if isinstance(value, str):
        return Entry(value, kind="text", raw={"": value})
    return _several(value, column)


def summed(
    values: Sequence[Value], column: Column, members: int, top: float | None = None
) -> Entry:
    """Values over an axis such as seed: mean with t interval, and the proportions pooled.

    Args:
        members: how many there should be; fewer is said.
        top: as in `entry`.
    """
    if values and isinstance(values[0], str | bool) and all(value == values[0] for value in values):
        return entry(values[0], column)
    mean = over(values)
    if mean is None:
        return MISSING if not values else UNDEFINED
    small = [limits(mean, column.unit, top)]
    raw = _raw(mean)
    if mean.n < members:
        small.append(f"{mean.n} of {members} measured")
    shares = [value for value in values if isinstance(value, Proportion)]
    if len(shares) == mean.n:
        whole = pooled(shares)
        small.append(f"pooled {limits(whole, 'share')}, {whole.k:,} of {whole.n:,}")
        raw |= {f"pooled_{name}".rstrip("_"): number for name, number in _raw(whole).items()}
    return Entry(number(mean.value, column.unit, top), tuple(small), mean.value, raw=raw)


def number(value: float, unit: str, top: float | None = None) -> str:
    """A number in its unit.

    >>> number(0.25, "share").replace(words.GAP, " "), number(1234.5, "number")
    ('25.0 %', '1,234')
    """
    if unit == "share":
        return words.percent(value) if 0 <= value <= 1 else f"{100 * value:.1f}{words.GAP}%"
    if unit == "seconds":
        return words.seconds(value)
    shown = words.number(value) if top is None else words.aligned(value, top)
    return f"{shown}{words.GAP}px" if unit == "pixels" else shown


def limits(value: Proportion | Mean, unit: str, top: float | None = None) -> str:
    """The interval alone; the mean of a share may have limits beyond 0 and 100 %."""
    if value.low is None or value.high is None:
        return "one value, no interval"
    if unit == "share":
        low, high = (f"{100 * bound:.1f}".replace("-", "−") for bound in (value.low, value.high))
        return f"{low} to {high}{words.GAP}%"
    bare = "number" if unit == "pixels" else unit
    ends = number(value.low, bare, top), number(value.high, bare, top)
    return f"{ends[0]} to {ends[1]}"


def _raw(value: Proportion | Mean) -> dict[str, Raw]:
    return {"" if name == "value" else name: number for name, number in value}


def n_of(value: Value) -> int | None:
    """How many a value rests on, where it says so."""
    return value.n if isinstance(value, Proportion | Mean) else None


def _several(values: Sequence[float | None], column: Column) -> Entry:
    there = [value for value in values if value is not None]
    raw: dict[str, Raw] = {"": json.dumps(list(values))}
    if not there:
        return Entry("n/a", kind="none", title="a list without a number", raw=raw)
    ends = number(min(there), column.unit), number(max(there), column.unit)
    count = f"{len(there)} of {len(values)} values"
    return Entry(f"{ends[0]} to {ends[1]}", (count,), max(there), raw=raw)
