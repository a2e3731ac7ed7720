"""Tables that are not of cells: published figures beside ours, comparisons, time and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mithridate.reports import values, words
from mithridate.reports.schema import Cell, Column, Comparison, Study, Timing
from mithridate.reports.select import fits, name, state
from mithridate.reports.summary import over, point
from mithridate.reports.tables import Head, Row, Table
from mithridate.reports.values import Entry

ALPHA = 0.05
Limited = tuple[float, float | None, float | None]
"""A value with its limits."""


def plain(
    slug: str,
    title: str,
    note: str,
    lead: Mapping[str, str],
    heads: Mapping[str, str],
    rows: Sequence[Row],
    **helps: str,
) -> Table:
    """A table whose columns are key -> title; `helps` says more of some.

    A column is of text where all of its entries are, else of numbers.
    """
    textual = [all(row.entries[at].kind == "text" for row in rows) for at in range(len(heads))]
    return Table(
        slug=slug,
        title=title,
        note=note,
        lead=[Head(text, key, number=False) for key, text in lead.items()],
        heads=[
            Head(text, key, number=not is_text, help=helps.get(key, ""))
            for (key, text), is_text in zip(heads.items(), textual, strict=True)
        ],
        rows=rows,
    )


def published(study: Study, cells: Sequence[Cell], number: int) -> Table | None:
    """Each published figure beside ours, its source, and the reason for a difference."""
    if not study.published:
        return None
    rows = []
    for figure in study.published:
        column = study.column(figure.value)
        mine = [c for c in cells if c.matrix == figure.matrix and fits(c.axes, figure.where)]
        ours, value = _ours(mine, figure.value, column)
        parts = []
        for axis, wanted in figure.where.items():
            labels = [name(one) for one in (wanted if isinstance(wanted, list) else [wanted])]
            parts.append(wanted if isinstance(wanted, str) else f"{axis} {', '.join(labels)}")
        reported = figure.published
        if isinstance(reported, str):
            theirs = values.text(reported)
        else:
            theirs = values.text(values.number(reported, column.unit), reported, reported)
        entries = [theirs, ours, _difference(reported, value, column)]
        entries += [values.text(figure.source), values.text(figure.reason or words.NONE)]
        lead = [values.text(", ".join(parts) or "all cells"), values.text(column.title)]
        rows.append(Row(lead, entries, name=mine[0].id if len(mine) == 1 else ""))
    heads = {"published": "published", "ours": "ours", "difference": "difference"}
    heads |= {"source": "source", "reason": "reason for a difference"}
    columns = {"where": "where", "what": "what"}
    note = "Difference: ours less published."
    slug = f"{number:02d}-published"
    return plain(slug, "Published figures beside ours", note, columns, heads, rows)


def _ours(cells: Sequence[Cell], value: str, column: Column) -> tuple[Entry, Limited | None]:
    """The entry, and its value with limits: one cell's own, or the mean over several."""
    why = state(cells)
    if why:
        return values.absent(why), None
    there = [c.values[value] for c in cells if c.status == "done" and value in c.values]
    if not there:
        return values.MISSING, None
    if len(cells) == 1:
        one = there[0]
        at = point(one)
        limits = getattr(one, "low", None), getattr(one, "high", None)
        return values.entry(one, column), None if at is None else (at, *limits)
    mean = over(there)
    if mean is None:
        return values.UNDEFINED, None
    shown = values.entry(mean, column, with_n=False)
    entry = replace(
        shown, small=(*shown.small, f"mean of {words.many(mean.n, 'cell')}"), raw=shown.raw
    )
    return entry, (mean.value, mean.low, mean.high)


def _difference(reported: float | str, ours: Limited | None, column: Column) -> Entry:
    if isinstance(reported, str) or ours is None:
        return values.none("no two numbers to compare")
    value, low, high = ours
    gap = value - reported
    small: tuple[str, ...] = ()
    if low is not None and high is not None:
        small = (f"{'inside' if low <= reported <= high else 'outside'} our interval",)
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
        column = study.column(one.value)
        gap, n = one.difference, one.n
        entries = [
            *map(values.text, (column.title, one.first, one.second)),
            Entry(signed(gap, column.unit), (f"n = {n:,}",), gap, raw={"": gap, "n": n}),
            range_entry(one.unpaired, column),
            range_entry(one.paired, column),
            p_entry(one.mcnemar, "not on record image by image, for the same images"),
            p_entry(one.holm, "no p-value to correct"),
            values.text(_reads(one)),
        ]
        rows.append(Row([values.text(one.title)], entries))
    heads = {"value": "of", "first": "first", "second": "second", "difference": "difference"}
    heads |= {"unpaired": "unpaired 95 %", "paired": "paired 95 %", "mcnemar": "McNemar p"}
    heads |= {"holm": "Holm p", "reads": "reads"}
    note = (
        "Difference: first less second. Unpaired: the 95 % interval of the documents, which takes "
        "the two as independent. Paired and McNemar (exact): on the same images, – where they "
        "were not, or where the measure keeps no record image by image. Holm: corrected for "
        f"{words.many(len(rows), 'comparison')} of this study."
    )
    slug, lead = f"{number:02d}-comparisons", {"comparison": "comparison"}
    level = f"at the level {ALPHA}"
    return plain(slug, "Comparisons", note, lead, heads, rows, reads=level)


def range_entry(bounds: tuple[float, float] | None, column: Column, how: str = "") -> Entry:
    """The limits of a difference; `how` says which they are."""
    if bounds is None:
        return values.none("not run: needs the same images in both")
    low, high = bounds
    if column.unit == "share":
        text = f"{100 * low:+.2f} to {100 * high:+.2f}".replace("-", "−")
    else:
        text = f"{signed(low, column.unit)} to {signed(high, column.unit)}"
    return Entry(text, (how,) if how else (), low, raw={"low": low, "high": high})


def p_entry(value: float | None, why: str) -> Entry:
    """A p-value, or why there is none."""
    if value is None:
        return values.none(why)
    text = words.p_value(value).removeprefix("p = ").removeprefix("p ")
    return values.text(text, value, value)


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
    seconds, count = Column(title="", unit="seconds"), Column(title="")
    rows = []
    for kind, units in kinds.items():
        fresh = [unit.seconds for unit in units if not unit.cached]
        spent = [sum(fresh), max(fresh), sum(fresh) / len(fresh)] if fresh else [None] * 3
        entries = [values.entry(n, count) for n in (len(units), len(units) - len(fresh))]
        entries += [
            values.none("every unit came from the store") if s is None else values.entry(s, seconds)
            for s in spent
        ]
        rows.append(Row([values.text(kind)], entries))
    heads = {"units": "units", "cached": "from the store", "seconds": "time"}
    heads |= {"longest": "longest", "mean": "mean"}
    note = "Time of this run alone: a unit that lay in the store was read, not made."
    slug = f"{number:02d}-time"
    return plain(slug, "Time by kind of unit", note, {"unit": "unit"}, heads, rows)
