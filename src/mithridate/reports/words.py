"""Numbers as a reader wants them. What was not measured is a dash, never a zero."""

from __future__ import annotations

import math

from mithridate.reports.schema import Proportion, Region

NONE = "–"
GAP = "\u00a0"  # holds a number and its unit together


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits.

    >>> number(0.12345), number(1234567), number(None), number(7.0)
    ('0.123', '1,234,567', '–', '7')
    """
    if value is None or not math.isfinite(value):
        return NONE
    if (float(value).is_integer() and abs(value) < 1e15) or abs(value) >= 10**digits:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", "−")


def many(count: int, what: str) -> str:
    """A count of things.

    >>> many(1, "image"), many(2000, "image")
    ('1 image', '2,000 images')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def setting(value: object) -> str:
    """A setting: levels of 8 bits as such, other numbers short.

    >>> setting(8 / 255), setting(0.3), setting(None), setting(True)
    ('8/255', '0.3', 'none', 'yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return "none" if value is None else str(value)
    levels = round(value * 255)
    if 0 < levels < 255 and abs(value * 255 - levels) < 1e-9 and len(repr(value)) > 6:
        return f"{levels}/255"
    return f"{value:.4g}"


def aligned(value: float | None, top: float) -> str:
    """A number of a column whose greatest is `top`: all with as many decimals.

    >>> aligned(1.5, 2.75), aligned(123.4, 900.0), aligned(None, 1.0)
    ('1.50', '123', '–')
    """
    if value is None or not math.isfinite(value):
        return NONE
    decimals = 2 - math.floor(math.log10(abs(top))) if top else 0
    return f"{value:.{min(6, max(0, decimals))}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """A share in percent; never rounded up to 100 % or down to 0 %.

    >>> shares = (0.9871, 1.0, 0.99999, 0.00001, None)
    >>> [percent(share).replace(GAP, " ") for share in shares]
    ['98.7 %', '100 %', '> 99.9 %', '< 0.1 %', '–']
    """
    if value is None or not math.isfinite(value):
        return NONE
    if value in (0, 1):
        return f"{value * 100:.0f}{GAP}%"
    if value >= 0.9995:
        return f">{GAP}99.9{GAP}%"
    return f"{value * 100:.1f}{GAP}%" if value >= 0.0005 else f"<{GAP}0.1{GAP}%"


def interval(share: Proportion | None) -> str:
    """The interval and the count behind a share.

    >>> interval(Proportion(value=0.5, low=0.095, high=0.905, k=1, n=2)).replace(GAP, " ")
    '95 % interval 9.5 to 90.5 %, 1 of 2'
    """
    if share is None:
        return "not run"
    low, high = (f"{bound * 100:.1f}" for bound in (share.low, share.high))
    return f"95{GAP}% interval {low} to {high}{GAP}%, {share.k:,} of {share.n:,}"


def seconds(value: float | None) -> str:
    """A duration.

    >>> [seconds(t).replace(GAP, " ") for t in (0.25, 42.0, 192, 7500, None)]
    ['0.25 s', '42 s', '3 min 12 s', '2 h 5 min', '–']
    """
    if value is None:
        return NONE
    if value < 60:
        return f"{number(value, 2)}{GAP}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}{GAP}min {rest}{GAP}s"
    return f"{minutes // 60}{GAP}h {minutes % 60}{GAP}min"


def p_value(value: float | None) -> str:
    """A p-value; a tiny one is bounded, not called zero.

    >>> p_value(0.0123), p_value(0.0), p_value(None)
    ('p = 0.012', 'p < 0.0001', '–')
    """
    if value is None:
        return NONE
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def odds(value: float) -> str:
    """How often something of this probability happens, in words.

    >>> odds(0.0123), odds(0.4), odds(0.97)
    ('about 1 in 81', 'about 40 in 100', 'about 97 in 100')
    """
    if value < 1e-4:
        return "fewer than 1 in 10,000"
    if value > 0.2:
        return f"about {round(value * 100)} in 100"
    return f"about 1 in {round(1 / value):,}"


def p_in_words(value: float | None, alpha: float | None) -> str:
    """What the p-value says, without the jargon."""
    if value is None or alpha is None:
        return "No p-value could be computed, so this run supports no verdict."
    seen = f"If the model were clean, {odds(value)} audits would look at least this unusual."
    if value <= alpha:
        return f"{seen} That is rarer than the alarm level fixed beforehand ({number(alpha)})."
    return f"{seen} The alarm level fixed beforehand is {number(alpha)}: not unusual enough."


def probability_in_words(value: float, threshold: float | None) -> str:
    """What the probability of a backdoor says, without the jargon."""
    share = f"Of models that look like this one, about {round(100 * value)} in 100 are poisoned"
    alarm = "" if threshold is None else f" The alarm is given from {number(threshold, 2)} on."
    return f"{share}, where half of all models are.{alarm}"


def region(box: Region | None, height: int, width: int) -> str:
    """Where a region lies, its size, and its inclusive pixel rows and columns from 0.

    >>> region((1, 21, 7, 27), 28, 28)
    'top right, 6 × 6 pixels (rows 1 to 6, columns 21 to 26)'
    """
    if box is None:
        return "not located"
    top, left, bottom, right = box
    row = ("top", "middle", "bottom")[min(2, int(3 * (top + bottom) / 2 / height))]
    column = ("left", "centre", "right")[min(2, int(3 * (left + right) / 2 / width))]
    place = "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"
    rows, columns = f"rows {top} to {bottom - 1}", f"columns {left} to {right - 1}"
    return f"{place}, {bottom - top} × {right - left} pixels ({rows}, {columns})"


def short(name: str, length: int = 14) -> str:
    """A class name that fits a label.

    >>> short("a very long class name"), short("cat")
    ('a very long c…', 'cat')
    """
    flat = printable(name).strip()
    if not flat:
        return NONE
    return flat if len(flat) <= length else flat[: length - 1] + "…"


def printable(text: str) -> str:
    """Letters that do not print become spaces.

    >>> printable("a\u202eb")
    'a b'
    """
    return "".join(a if a.isprintable() or a == GAP else " " for a in text)
