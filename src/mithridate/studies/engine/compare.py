"""What cells say together: groups compared on the same images, and the sentences of the finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mithridate import component
from mithridate.errors import InputError, unknown
from mithridate.metrics import (
    holm,
    mcnemar,
    paired_difference,
    pairs,
    unpaired_difference,
    wilson,
)
from mithridate.studies.engine.cells import label_of, matches
from mithridate.studies.engine.spec import CompareSpec, FindingSpec, Spec

Row = Mapping[str, Any]
Bits = NDArray[np.bool_]

PER_IMAGE = {
    "accuracy_left": lambda t: t.get("left", t["predicted"] == t["label"]),
    "accuracy": lambda t: t["clean"] == t["label"],
    "success": lambda t: t["success"],
    "asr": lambda t: t["success"],
}
"""Shares that can be compared image by image, and what they count there."""
TOLD = ("k", "n", "low", "high", "mean", "least", "most")
"""What a sentence of the finding may name."""


def comparisons(
    spec: Spec, rows: Sequence[Row], tables: Mapping[str, pa.Table]
) -> list[dict[str, Any]]:
    """Every comparison that the study asks for and that its finished cells allow.

    Shares of both groups are pooled over the axes that neither side names (seeds, say). Where
    both were measured on the same images, the paired interval and McNemar's exact test stand
    beside the unpaired interval of Zhong et al. 2020; the p-values are corrected together (Holm).
    """
    comparisons = [
        c for c in (_compared(one, rows, tables) for one in spec.compare) if c is not None
    ]
    corrected = holm([one["mcnemar"] for one in comparisons])
    return [{**one, "holm": p} for one, p in zip(comparisons, corrected, strict=True)]


def _compared(
    one: CompareSpec, rows: Sequence[Row], tables: Mapping[str, pa.Table]
) -> dict[str, Any] | None:
    first, second = (_group(rows, one.matrix, side) for side in (one.first, one.second))
    shares = [_pooled(group, one.value) for group in (first, second)]
    if not all(n for _, n in shares):
        return None
    (k1, n1), (k2, n2) = shares
    unpaired = unpaired_difference(k1 / n1, k2 / n2, n1, n2)
    paired, p = None, None
    bits = _bits(one, first, second, tables)
    if bits is not None:
        table = pairs(*bits)
        interval = paired_difference(table)
        paired, p = (interval.low, interval.high), mcnemar(table)
    return {
        "title": one.title,
        "matrix": one.matrix,
        "value": one.value,
        "first": place_text(one.first),
        "second": place_text(one.second),
        "difference": unpaired.value,
        "unpaired": (unpaired.low, unpaired.high),
        "paired": paired,
        "mcnemar": p,
        "n": min(n1, n2),
    }


def _group(rows: Sequence[Row], matrix: str, where: Mapping[str, Any]) -> list[Row]:
    return [
        row
        for row in rows
        if row["matrix"] == matrix and row["status"] == "done" and matches(row["axes"], where)
    ]


def _pooled(group: Sequence[Row], value: str) -> tuple[int, int]:
    """k of n over all cells of a group."""
    values = [row["values"].get(value) for row in group]
    shares = [share for share in values if isinstance(share, Mapping) and "k" in share]
    return sum(s["k"] for s in shares), sum(s["n"] for s in shares)


def _bits(
    one: CompareSpec,
    first: Sequence[Row],
    second: Sequence[Row],
    tables: Mapping[str, pa.Table],
) -> tuple[Bits, Bits] | None:
    """Image by image whether each side counted; None where the images are not the same."""
    if one.value not in PER_IMAGE:
        return None
    partner = {_rest(row, one.second): row for row in second}
    sides: tuple[list[Bits], list[Bits]] = ([], [])
    for row in first:
        other = partner.get(_rest(row, one.first))
        if other is None or row["id"] not in tables or other["id"] not in tables:
            return None
        a, b = (
            {name: np.asarray(tables[r["id"]][name]) for name in tables[r["id"]].column_names}
            for r in (row, other)
        )
        same = np.array_equal(a["image"], b["image"]) and np.array_equal(a["label"], b["label"])
        if not same:
            return None
        if one.value == "success":  # over the images that both saw classified rightly
            right = (a["clean"] == a["label"]) & (b["clean"] == b["label"])
            a, b = ({k: v[right] for k, v in side.items()} for side in (a, b))
        for side, table in zip(sides, (a, b), strict=True):
            side.append(np.asarray(PER_IMAGE[one.value](table), dtype=bool))
    if not sides[0] or len(first) != len(second):
        return None
    return np.concatenate(sides[0]), np.concatenate(sides[1])


def _rest(row: Row, named: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The labels of a cell on the axes that its side does not name."""
    return tuple((axis, label) for axis, label in row["axes"].items() if axis not in named)


def place_text(where: Mapping[str, Any]) -> str:
    """A choice of cells in words.

    >>> place_text({"attack": "fgsm", "seed": [0, 1]})
    'attack fgsm, seed 0 or 1'
    """
    return ", ".join(
        f"{axis} {' or '.join(str(label_of(v)) for v in (w if isinstance(w, list) else [w]))}"
        for axis, w in where.items()
    )


def finding(spec: Spec, rows: Sequence[Row]) -> str:
    """The main finding: every sentence whose cells have run."""
    sentences = (_sentence(one, _group(rows, one.matrix, one.where)) for one in spec.finding)
    return " ".join(sentence for sentence in sentences if sentence)


def _sentence(one: FindingSpec, group: Sequence[Row]) -> str:
    """A sentence filled in; empty where nothing was measured.

    Flags are counted, shares pooled; of numbers the mean and the extremes are told. The
    extremes of shares are those of the cells, in percent.
    """
    values = [row["values"].get(one.value) for row in group]
    known = [v for v in values if v is not None]
    if not known:
        return ""
    percent = True
    if all(isinstance(v, bool) for v in known):
        k, n, numbers = sum(known), len(known), [100.0 * v for v in known]
        mean = 100 * k / n
    elif all(isinstance(v, Mapping) and "k" in v for v in known):
        k, n = sum(v["k"] for v in known), sum(v["n"] for v in known)
        numbers = [100.0 * float(v["value"]) for v in known]
        mean = 100 * k / n
    else:
        try:
            numbers = [float(v["value"] if isinstance(v, Mapping) else v) for v in known]
        except (TypeError, ValueError):
            raise InputError(f"finding {one.text!r}: {one.value} is no number or share") from None
        k, n, mean, percent = 0, len(numbers), sum(numbers) / len(numbers), False
    interval = wilson(k, n)
    if percent:
        mean, *numbers = (round(number, 2) for number in (mean, *numbers))  # hundredths do
    words = {
        "k": str(k),
        "n": str(n),
        "low": f"{100 * interval.low:.1f}",
        "high": f"{100 * interval.high:.1f}",
        "mean": _short(mean),
        "least": _short(min(numbers)),
        "most": _short(max(numbers)),
    }
    return _filled(one.text, words)


def _short(value: float) -> str:
    """Three significant digits, and no fewer than there are before the point.

    >>> _short(66.67), _short(0.05), _short(12345.6), _short(25.0)
    ('66.7', '0.05', '12,346', '25')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _filled(text: str, words: Mapping[str, str]) -> str:
    try:
        return text.format(**words)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        names = ", ".join(TOLD)
        raise InputError(f"finding {text!r}: {error} is not known; it may name {names}") from None


def check(spec: Spec) -> None:
    """See that findings, comparisons and views can be told, before any work.

    Raises:
        InputError: a sentence that names something else than `TOLD`; a matrix or an axis that
            the study does not have; a number that the matrix's measure does not give.
    """
    for one in spec.finding:
        _filled(one.text, dict.fromkeys(TOLD, ""))
    rules = [(one.matrix, one.where) for one in spec.finding]
    rules += [(one.matrix, side) for one in spec.compare for side in (one.first, one.second)]
    numbers = [(one.matrix, one.value) for one in spec.compare]
    for view in spec.view:
        name = view.get("matrix", "")
        named = [view[key] for key in ("by", "series", "x", "over") if view.get(key)]
        rules.append((name, {**dict.fromkeys(named), **view.get("where", {})}))
        if view.get("kind") in ("bars", "curve"):
            numbers.append((name, view.get("value", "")))
    for name, where in rules:
        if name not in spec.matrix:
            raise unknown("matrix", name, spec.matrix)
        axes = [*spec.matrix[name].axes, *(a for cell in spec.matrix[name].include for a in cell)]
        for axis in where:
            if axis not in axes:
                raise unknown(f"axis of matrix.{name}", axis, set(axes))
    for name, value in numbers:
        columns = component.find("measures", spec.matrix[name].measure).columns
        if columns and value not in {**columns, **spec.columns}:
            raise unknown(f"value of matrix.{name}", value, {**columns, **spec.columns})
