"""Tables that are not of cells: published figures beside ours, comparisons, time and cost."""

from __future__ import annotations

from collections.abc import Sequence

from mithridate.reports import values, words
from mithridate.reports.schema import (
    Cell,
    Column,
    Comparison,
    Published,
    Study,
    Timing,
)
from mithridate.reports.select import fits, name, state
from mithridate.reports.summary import over, point
from mithridate.reports.tables import Head, Row, Table
from mithridate.reports.values import Entry

ALPHA = 0.05


def published(study: Study, cells: Sequence[Cell], number: int) -> Table | None:
    """Each published figure beside ours, its source, and the reason for a difference."""
    if not study.published:
        return None
    rows = []
    for figure in study.published:
        column = study.columns.get(figure.value, Column(title=figure.value))
        mine = [c for c in cells if c.matrix == figure.matrix and fits(c.axes, figure.where)]
        ours, value = _ours(mine, figure.value, column)
        lead = [values.text(_where(figure)), values.text(column.title)]
        reported = figure.published
        theirs = (
            values.text(reported)
            if isinstance(reported, str)
            else Entry(values.number(reported, column.unit), sort=reported, raw={"": reported})
        )
        entries = [theirs, ours, _difference(reported, value, column)]
        entries += [values.text(figure.source), values.text(figure.reason or words.NONE)]
        rows.append(Row(lead, entries, name=mine[0].id if len(mine) == 1 else ""))
    return Table(
        slug=f"{number:02d}-published",
        title="Published figures beside ours",
        note="Difference: ours less published.",
        lead=[Head("where", "where", number=False), Head("what", "what", number=False)],
        heads=[
            Head("published", "published"),
            Head("ours", "ours"),
            Head("difference", "difference"),
            Head("source", "source", number=False),
            Head("reason for a difference", "reason", number=False),
        ],
        rows=rows,
    )


def _where(figure: Published) -> str:
    parts = []
    for axis, wanted in figure.where.items():
        labels = [name(label) for label in (wanted if isinstance(wanted, list) else [wanted])]
        plain = isinstance(wanted, str)
        parts.append(labels[0] if plain else f"{axis} {', '.join(labels)}")
    return ", ".join(parts) or "all cells"


def _ours(
    cells: Sequence[Cell], value: str, column: Column
) -> tuple[Entry, tuple[float, float | None, float | None] | None]:
    """The entry, and its value with limits: one cell's own, or the mean over several."""
    why = state(cells)
    if why:
        return (values.MISSING if why == values.NOT_RUN else Entry(why, kind="fail")), None
    there = [c.values[value] for c in cells if c.status == "done" and value in c.values]
    if not there:
        return values.MISSING, None
    if len(cells) == 1:
        one = there[0]
        at = point(one)
        low, high = getattr(one, "low", None), getattr(one, "high", None)
        return values.entry(one, column), None if at is None else (at, low, high)
    mean = over(there)
    if mean is None:
        return values.UNDEFINED, None
    shown = values.entry(mean, column, with_n=False)
    count = f"mean of {mean.n} cells"
    entry = Entry(shown.text, (*shown.small, count), shown.sort, raw=shown.raw)
    return entry, (mean.value, mean.low, mean.high)


def _difference(
    reported: float | str, ours: tuple[float, float | None, float | None] | None, column: Column
) -> Entry:
    if isinstance(reported, str) or ours is None:
        return Entry(words.NONE, kind="none", title="no two numbers to compare")
    value, low, high = ours
    gap = value - reported
    small: tuple[str, ...] = ()
    if low is not None and high is not None:
        inside = low <= reported <= high
        small = ("inside our interval" if inside else "outside our interval",)
    return Entry(signed(gap, column.unit), small, gap, raw={"": gap})


def signed(value: float, unit: str) -> str:
    """A difference with its sign; shares in points.

    >>> signed(-0.0123, "share").replace(words.GAP, " "), signed(3.0, "number")
    ('−1.23 points', '+3')
    """
    sign = "+" if value > 0 else ""
    if unit == "share":
        return f"{sign}{100 * value:.2f} points".replace("-", "−").replace(" ", words.GAP)
    return f"{sign}{values.number(value, unit)}"


def comparisons(study: Study, number: int) -> Table | None:
    """Cells compared: difference, unpaired and paired interval, McNemar's p, Holm's p."""
    if not study.comparisons:
        return None
    rows = []
    for one in study.comparisons:
        column = study.columns.get(one.value, Column(title=one.value))
        lead = [values.text(one.title)]
        entries = [
            values.text(column.title),
            values.text(one.first),
            values.text(one.second),
            Entry(
                signed(one.difference, column.unit),
                (f"n = {one.n:,}",),
                one.difference,
                raw={"": one.difference, "n": one.n},
            ),
            range_entry(one.unpaired, column),
            range_entry(one.paired, column),
            p_entry(one.mcnemar, "not measured on the same images"),
            p_entry(one.holm, "no p-value to correct"),
            values.text(_reads(one)),
        ]
        rows.append(Row(lead, entries))
    return Table(
        slug=f"{number:02d}-comparisons",
        title="Comparisons",
        note=(
            "Difference: first less second. Unpaired: the 95 % interval of the documents, which "
            "takes the two as independent. Paired and McNemar (exact): on the same images, – where "
            "they were not. Holm: "
            f"corrected for the {len(study.comparisons)} comparisons of this study."
        ),
        lead=[Head("comparison", "comparison", number=False)],
        heads=[
            Head("of", "value", number=False),
            Head("first", "first", number=False),
            Head("second", "second", number=False),
            Head("difference", "difference"),
            Head("unpaired 95 %", "unpaired"),
            Head("paired 95 %", "paired"),
            Head("McNemar p", "mcnemar"),
            Head("Holm p", "holm"),
            Head("reads", "reads", number=False, help=f"at the level {ALPHA}"),
        ],
        rows=rows,
    )


def range_entry(bounds: tuple[float, float] | None, column: Column, how: str = "") -> Entry:
    """The limits of a difference; `how` says which they are."""
    if bounds is None:
        return Entry(words.NONE, kind="none", title="not run: needs the same images in both")
    low, high = bounds
    if column.unit == "share":
        text = f"{100 * low:+.2f} to {100 * high:+.2f}".replace("-", "−")
    else:
        text = f"{signed(low, column.unit)} to {signed(high, column.unit)}"
    small = (how,) if how else ()
    return Entry(text, small, low, raw={"low": low, "high": high})


def p_entry(value: float | None, why: str) -> Entry:
    """A p-value, or why there is none."""
    if value is None:
        return Entry(words.NONE, kind="none", title=why)
    text = words.p_value(value).removeprefix("p = ").removeprefix("p ")
    return Entry(text, sort=value, raw={"": value})


def _reads(one: Comparison) -> str:
    """What the strongest evidence says: Holm's p, else the paired, else the unpaired interval."""
    bounds = one.paired or one.unpaired
    if one.holm is not None:
        apart = one.holm <= ALPHA
    elif bounds is not None:
        apart = bounds[0] > 0 or bounds[1] < 0
    else:
        return "no interval"
    if not apart:
        return "not told apart"
    return "first higher" if one.difference > 0 else "second higher"


def times(timings: Sequence[Timing], number: int) -> Table | None:
    """Seconds by kind of unit; units from the store cost what they cost when they were made."""
    if not timings:
        return None
    kinds: dict[str, list[Timing]] = {}
    for timing in timings:
        kinds.setdefault(timing.kind, []).append(timing)
    column = Column(title="", unit="seconds")
    rows = []
    for kind, units in kinds.items():
        fresh = [unit.seconds for unit in units if not unit.cached]
        entries = [values.entry(len(units), Column(title=""))]
        entries.append(values.entry(len(units) - len(fresh), Column(title="")))
        entries.append(values.entry(sum(fresh), column) if fresh else _NONE_MADE)
        entries.append(values.entry(max(fresh), column) if fresh else _NONE_MADE)
        entries.append(values.entry(sum(fresh) / len(fresh), column) if fresh else _NONE_MADE)
        rows.append(Row([values.text(kind)], entries))
    return Table(
        slug=f"{number:02d}-time",
        title="Time by kind of unit",
        note="Time of this run alone: a unit that lay in the store was read, not made.",
        lead=[Head("unit", "unit", number=False)],
        heads=[
            Head("units", "units"),
            Head("from the store", "cached"),
            Head("time", "seconds"),
            Head("longest", "longest"),
            Head("mean", "mean"),
        ],
        rows=rows,
    )


_NONE_MADE = Entry(words.NONE, kind="none", title="every unit came from the store")
