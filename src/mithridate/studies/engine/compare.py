"""What cells say together: groups compared on the same images, and the sentences of the finding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from string import Formatter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mithridate import component
from mithridate.errors import InputError, unknown
from mithridate.metrics import (
    Interval,
    Pairs,
    holm,
    mcnemar,
    paired_difference,
    pairs,
    pooled,
    unpaired_difference,
    wilson,
)
from mithridate.studies.engine.cells import label_of, matches
from mithridate.studies.engine.spec import CompareSpec, FindingSpec, MatrixSpec, Spec, merge

Row = Mapping[str, Any]
Bits = NDArray[np.bool_]
Rows = NDArray[np.int32]

PER_IMAGE = {
    "accuracy_left": lambda t: t.get("left", t["predicted"] == t["label"]),
    "accuracy": lambda t: t["clean"] == t["label"],
    "success": lambda t: t["success"],
    "asr": lambda t: t["success"],
}
"""Shares that can be compared image by image, and what they count there."""
TOLD = ("k", "n", "low", "high", "mean", "least", "most")
"""What a sentence of the finding may name; `OF_SHARES` where the value is a share or a flag."""
OF_SHARES = ("k", "low", "high")


def comparisons(
    spec: Spec, rows: Sequence[Row], tables: Mapping[str, pa.Table]
) -> list[dict[str, Any]]:
    """Every comparison that the study asks for and that its finished cells allow.

    Shares of both groups are pooled over the axes that neither side names (seeds, say). Where
    both were measured on the same images, the paired interval and McNemar's exact test stand
    beside the unpaired interval of Zhong et al. 2020; the p-values are corrected together (Holm).
    An image that was asked about under several seeds is one image: each interval is that of as
    many images, and the test counts for each image which side leads over all seeds.
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
    shares = [_shares(group, one.value) for group in (first, second)]
    if not all(shares):
        return None
    a, b = map(pooled, shares)
    images = [max(n for _, n in share) for share in shares]
    unpaired = unpaired_difference(a.value, b.value, *images)
    paired, p = None, None
    bits = _bits(one, first, second, tables)
    if bits is not None:
        paired, p = _by_image(*bits)
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
        "n": min(images),
    }


def _by_image(first: Bits, second: Bits, image: Rows) -> tuple[tuple[float, float], float]:
    """The paired interval and McNemar's p, where the same image may stand in several rows."""
    _, which = np.unique(image, return_inverse=True)
    lead = np.bincount(which, first.astype(float) - second)
    table, share = pairs(first, second), len(lead) / len(first)
    interval = paired_difference(Pairs(*(round(share * count) for count in astuple(table))))
    ahead, behind = int((lead > 0).sum()), int((lead < 0).sum())
    return (interval.low, interval.high), mcnemar(Pairs(0, ahead, behind, 0))


def _group(rows: Sequence[Row], matrix: str, where: Mapping[str, Any]) -> list[Row]:
    return [
        row
        for row in rows
        if row["matrix"] == matrix and row["status"] == "done" and matches(row["axes"], where)
    ]


def _once(group: Sequence[Row]) -> list[Row]:
    """One row of each measurement: cells of equal settings share the unit that measured them."""
    return list({row.get("unit") or row["id"]: row for row in group}.values())


def _shares(group: Sequence[Row], value: str) -> list[tuple[int, int]]:
    """k and n of each cell of a group that has images."""
    values = [row["values"].get(value) for row in _once(group)]
    shares = [share for share in values if isinstance(share, Mapping) and "k" in share]
    return [(share["k"], share["n"]) for share in shares if share["n"]]


def _bits(
    one: CompareSpec,
    first: Sequence[Row],
    second: Sequence[Row],
    tables: Mapping[str, pa.Table],
) -> tuple[Bits, Bits, Rows] | None:
    """Image by image whether each side counted, and its row; None where the images differ."""
    if one.value not in PER_IMAGE:
        return None
    partner = {_rest(row, one.second): row for row in second}
    sides: tuple[list[Bits], list[Bits]] = ([], [])
    images: list[Rows] = []
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
        images.append(a["image"])
    if not sides[0] or len(first) != len(second):
        return None
    return np.concatenate(sides[0]), np.concatenate(sides[1]), np.concatenate(images)


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
    sentences = (_sentence(one, _once(_group(rows, one.matrix, one.where))) for one in spec.finding)
    return " ".join(sentence for sentence in sentences if sentence)


def _sentence(one: FindingSpec, group: Sequence[Row]) -> str:
    """A sentence filled in; empty where nothing was measured, or is no number.

    Flags are counted, shares pooled; of numbers the mean and the extremes are told. The
    extremes of shares are those of the cells, in percent.
    """
    values = [row["values"].get(one.value) for row in group]
    known = [v for v in values if v is not None]
    if group and not any(one.value in row["values"] for row in group):
        return f"({one.value} was measured in no cell.)"
    if not known:
        return ""
    share: Interval | None = None
    if all(isinstance(v, bool) for v in known):  # of models, each of which is one
        share, numbers = wilson(sum(known), len(known)), [100.0 * v for v in known]
    elif all(isinstance(v, Mapping) and "k" in v for v in known):
        share = pooled([(v["k"], v["n"]) for v in known])
        numbers = [100.0 * float(v["value"]) for v in known]
    else:
        numbers = [float(v) for v in map(_number, known) if v is not None]
        if not numbers:
            return ""  # text, which `check` refuses where the measure says so
    mean, words = sum(numbers) / len(numbers), dict.fromkeys(OF_SHARES, "–")
    if share is not None:
        mean, *numbers = (round(number, 2) for number in (100 * share.value, *numbers))
        low, high = f"{100 * share.low:.1f}", f"{100 * share.high:.1f}"
        words = {"k": str(share.k), "low": low, "high": high}
    words |= {
        "n": str(len(numbers) if share is None else share.n),
        "mean": _short(mean),
        "least": _short(min(numbers)),
        "most": _short(max(numbers)),
    }
    return one.text.format(**words)


def _number(value: Any) -> float | None:
    """A number, or a mean's; None of text and lists."""
    value = value["value"] if isinstance(value, Mapping) else value
    return float(value) if isinstance(value, int | float) else None


def _short(value: float) -> str:
    """Three significant digits, and no fewer than there are before the point.

    >>> _short(66.67), _short(0.05), _short(12345.6), _short(25.0)
    ('66.7', '0.05', '12,346', '25')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _named(text: str) -> set[str]:
    """What a sentence names.

    Raises:
        InputError: something else than `TOLD`.

    >>> sorted(_named("{k} of {n}"))
    ['k', 'n']
    """
    may = f"it may name {', '.join(TOLD)}"
    try:
        parts = [(name, spec or kind) for _, name, spec, kind in Formatter().parse(text)]
    except ValueError as error:
        raise InputError(f"finding {text!r}: {error}; {may}") from None
    for name, more in parts:
        if more or name not in (None, *TOLD):
            raise InputError(f"finding {text!r}: {{{name}}} is not known as it stands; {may}")
    return {name for name, _ in parts if name is not None}


def check(spec: Spec) -> None:
    """See that findings, comparisons, views and published figures can be told, before any work.

    Raises:
        InputError: a sentence that names something else than `TOLD`, or of a number what is said
            of shares alone; a matrix, an axis or a label that the study does not have; a number
            that the matrix's measure does not give.
    """
    for name, where in _places(spec):
        if name not in spec.matrix:
            raise unknown("matrix", name, spec.matrix)
        labels = _labels(spec, spec.matrix[name])
        for axis, wanted in where.items():
            if axis not in labels:
                raise unknown(f"axis of matrix.{name}", axis, set(labels))
            for label in wanted if isinstance(wanted, list) else [wanted]:
                if axis in spec.options and str(label_of(label)) not in labels[axis]:
                    raise unknown(f"{axis} of matrix.{name}", str(label_of(label)), labels[axis])
    drawn = [view for view in spec.view if view.get("kind") in ("bars", "curve")]
    numbers = [(one.matrix, one.value) for one in spec.compare]
    for name, value in numbers + [(view["matrix"], view.get("value", "")) for view in drawn]:
        columns = _columns(spec, name)
        if columns and value not in columns:
            raise unknown(f"value of matrix.{name}", value, columns)
    for one in spec.finding:
        unit = _columns(spec, one.matrix).get(one.value, {}).get("unit", "number")
        named = _named(one.text)
        wrong = named if unit == "text" else named & set(OF_SHARES)
        if wrong and unit not in ("share", "flag"):
            has_not = ", ".join(f"{{{name}}}" for name in sorted(wrong))
            raise InputError(f"finding {one.text!r}: {one.value} is no share, and has no {has_not}")


def _places(spec: Spec) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each matrix that something is told of, and of which of its cells."""
    for told in (*map(vars, spec.finding), *spec.published, *spec.view):
        yield told.get("matrix", ""), told.get("where", {})
    for one in spec.compare:
        yield from ((one.matrix, one.first), (one.matrix, one.second))
    for view in spec.view:
        named = [view[key] for key in ("by", "series", "x", "over") if view.get(key)]
        yield view.get("matrix", ""), {axis: [] for axis in named}


def _labels(spec: Spec, matrix: MatrixSpec) -> dict[str, set[str]]:
    """Axis -> the labels that its cells have, or would have at another scale."""
    labels = {axis: {str(label_of(v)) for v in values} for axis, values in matrix.axes.items()}
    for cell in matrix.include:
        for axis, value in cell.items():
            labels.setdefault(axis, set()).add(str(label_of(value)))
    return {axis: known | set(spec.options.get(axis, ())) for axis, known in labels.items()}


def _columns(spec: Spec, matrix: str) -> dict[str, dict[str, Any]]:
    """The columns of a matrix's measure, as the study words them."""
    own = component.find("measures", spec.matrix[matrix].measure).columns
    return merge(own, spec.columns) if own else {}
