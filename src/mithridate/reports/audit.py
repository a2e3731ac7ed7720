"""What an audit comes to: the verdict, what was measured beside it, in words and for gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mithridate.errors import InputError
from mithridate.reports import attacks, words
from mithridate.reports.schema import Cell, Doubt, Proportion, Region, Study, Timing
from mithridate.reports.select import (
    DONE,
    list_of,
    names_of,
    number_of,
    share_of,
    text_of,
    whole_of,
)

CLEAN, VERDICT, EVASION = "clean", "verdict", "evasion"
BACKDOOR, NOISE = "backdoor", "white-noise"
"""Matrices of an audit, by name."""


@dataclass(frozen=True)
class Statistic:
    """What was tested: the suspect's value and those seen under the null hypothesis."""

    name: str
    value: float
    null_values: Sequence[float]


@dataclass(frozen=True)
class Truth:
    """What was planted; known only where the backdoor was planted by the same run."""

    source: int | None
    target: int | None
    region: Region | None
    iou: float | None


@dataclass(frozen=True)
class Inspection:
    """What one cell of the measure "inspection" says.

    Attributes:
        suspicious: None where no verdict was possible.
        region: (top, left, bottom, right), half-open, in pixels.
        names: of the classes.
        shape: (channels, height, width) of an image; None where the record does not tell.
        doubts: about the verdict.
    """

    cell: Cell
    names: Sequence[str]
    shape: tuple[int, int, int] | None
    suspicious: bool | None
    headline: str
    null: str
    p_value: float | None
    alpha: float | None
    statistic: Statistic | None
    source: int | None
    target: int | None
    region: Region | None
    recovered: Proportion | None
    controls: int | None
    queries: float | None
    gradients: float | None
    truth: Truth | None

    @property
    def done(self) -> bool:
        """Whether the inspector came to an end."""
        return self.cell.status == DONE

    @property
    def doubts(self) -> Sequence[Doubt]:
        """Doubts about the verdict."""
        return self.cell.doubts


def inspection(study: Study, cell: Cell) -> Inspection:
    """One cell, typed.

    Raises:
        InputError: a class that there is not, or a region that is none.
    """
    shape = study.data.image_shape if study.data is not None else None
    names = _names(study, cell)
    null_values = [value for value in list_of(cell, "null_values") if value is not None]
    value = number_of(cell, "statistic")
    name = text_of(cell, "statistic_name") or "statistic"
    suspicious = cell.values.get("suspicious")
    known = any(f"truth_{key}" in cell.values for key in ("source", "target", "region"))
    truth = Truth(
        _class(cell, "truth_source", names),
        _class(cell, "truth_target", names),
        region_of(text_of(cell, "truth_region"), shape),
        number_of(cell, "iou"),
    )
    return Inspection(
        cell=cell,
        names=names,
        shape=shape,
        suspicious=suspicious if isinstance(suspicious, bool) else None,
        headline=text_of(cell, "headline").strip(),
        null=text_of(cell, "null"),
        p_value=number_of(cell, "p_value"),
        alpha=number_of(cell, "alpha"),
        statistic=None if value is None else Statistic(name, value, null_values),
        source=_class(cell, "source", names),
        target=_class(cell, "target", names),
        region=region_of(text_of(cell, "region"), shape),
        recovered=share_of(cell, "recovered_asr"),
        controls=whole_of(cell, "controls"),
        queries=number_of(cell, "queries"),
        gradients=number_of(cell, "gradients"),
        truth=truth if known else None,
    )


def _names(study: Study, cell: Cell) -> list[str]:
    """Names of the classes, by index where the study does not name them."""
    names = names_of(study, cell)
    lengths = [len(list_of(cell, key)) for key in ("distances", "ranking_class")]
    classes = [whole_of(cell, key) for key in ("source", "target", "truth_source", "truth_target")]
    if not names:
        count = max([*lengths, *(1 + index for index in classes if index is not None)])
        names = [str(k) for k in range(count)]
    return names


def _class(cell: Cell, key: str, names: Sequence[str]) -> int | None:
    index = whole_of(cell, key)
    if index is not None and not 0 <= index < len(names):
        raise InputError(
            f"cell {cell.id}: {key} is class {index}, but there are {len(names)} classes"
        )
    return index


def region_of(text: str, shape: tuple[int, int, int] | None) -> Region | None:
    """A region from "top, left, bottom, right"; None of an empty text.

    Raises:
        InputError: no region, or one that is empty or outside the image.

    >>> region_of("1, 21, 7, 27", (1, 28, 28))
    (1, 21, 7, 27)
    """
    if not text:
        return None
    try:
        top, left, bottom, right = (int(part) for part in text.strip("()[] ").split(","))
    except ValueError:
        raise InputError(f"{text!r:.60} is no region: top, left, bottom, right") from None
    _, height, width = shape or (1, bottom, right)
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise InputError(f"region {text!r:.60} is empty or outside {height} x {width} images")
    return top, left, bottom, right


@dataclass(frozen=True)
class Audit:
    """The cells of an audit by what they are; a part that was not run is None or empty."""

    study: Study
    verdict: Inspection | None
    accuracy: Proportion | None
    asr: Proportion | None
    attacks: Sequence[attacks.AttackRow]
    noise: Cell | None
    clean: Sequence[Cell]
    seconds: float | None
    noise_seconds: float | None


def audit(study: Study, cells: Sequence[Cell], timings: Sequence[Timing] = ()) -> Audit:
    """Sort the cells of an audit's record.

    The time of the verdict is that of all units that serve it, whether made now or earlier.
    """
    by_matrix: dict[str, list[Cell]] = {}
    for cell in cells:
        by_matrix.setdefault(cell.matrix, []).append(cell)
    first = {name: members[0] for name, members in by_matrix.items()}
    verdict, noise = first.get(VERDICT), first.get(NOISE)
    clean = by_matrix.get(CLEAN, [])
    suspects = [cell for cell in clean if cell.axes.get("role") != "reference"]
    accuracy = share_of(suspects[0] if suspects else None, "accuracy")
    planted = first.get(BACKDOOR)
    return Audit(
        study=study,
        verdict=None if verdict is None else inspection(study, verdict),
        accuracy=accuracy or share_of(planted, "accuracy"),
        asr=share_of(planted, "asr"),
        attacks=attacks.rows(by_matrix.get(EVASION, []), timings),
        noise=noise if noise is not None and noise.status == DONE else None,
        clean=clean,
        seconds=_seconds(verdict, timings),
        noise_seconds=_seconds(noise, timings),
    )


def _seconds(cell: Cell | None, timings: Sequence[Timing]) -> float | None:
    if cell is None:
        return None
    spent = [timing.seconds for timing in timings if cell.id in timing.cells]
    return sum(spent) if spent else None


def summary(found: Audit) -> dict[str, Any]:
    """The audit in a few values: for gates and for other programs."""
    verdict = found.verdict
    left = [row.accuracy_left.value for row in found.attacks if row.accuracy_left]
    values: dict[str, Any] = {
        "suspicious": verdict.suspicious if verdict else None,
        "p_value": verdict.p_value if verdict else None,
        "source": verdict.source if verdict else None,
        "target": verdict.target if verdict else None,
    }
    for role in ("source", "target"):
        index = values[role]
        values[f"{role}_name"] = verdict.names[index] if verdict and index is not None else None
    statistic = verdict.statistic if verdict else None
    return values | {
        "region": list(verdict.region) if verdict and verdict.region else None,
        "statistic": statistic.value if statistic else None,
        "accuracy": found.accuracy.value if found.accuracy else None,
        "asr": verdict.recovered.value if verdict and verdict.recovered else None,
        "robust_accuracy": min(left) if left and len(left) == len(found.attacks) else None,
        "status": found.study.status,
    }


def verdict_line(found: Audit) -> str:
    """The verdict in one line."""
    verdict = found.verdict
    if verdict is None or not verdict.done:
        return "No verdict: the audit was cut short"
    parts = [verdict.headline or "No verdict was reached"]
    if verdict.p_value is not None:
        alarm = "" if verdict.alpha is None else f" (alarm at {verdict.alpha:g})"
        parts.append(f"p = {verdict.p_value:.2g}{alarm}")
    if verdict.region is not None:
        top, left, bottom, right = verdict.region
        parts.append(f"trigger in rows {top} to {bottom - 1}, columns {left} to {right - 1}")
    return "; ".join(parts)


def figures(found: Audit) -> list[tuple[str, str]]:
    """What was measured and how much, then the doubts: the rows of a table of two columns."""
    verdict = found.verdict
    rows = [("clean accuracy", with_interval(found.accuracy))]
    rows += [
        (f"accuracy left by {row.name}", with_interval(row.accuracy_left)) for row in found.attacks
    ]
    if found.asr is not None:
        rows.append(("success of the planted trigger", with_interval(found.asr)))
    if verdict is not None and verdict.recovered is not None:
        rows.append(("success of the recovered trigger", with_interval(verdict.recovered)))
    doubts = verdict.doubts if verdict is not None else ()
    return [*rows, *((f"doubt: {doubt.id}", doubt.text) for doubt in doubts)]


def with_interval(share: Proportion | None) -> str:
    """A share with its interval and count, for a terminal.

    >>> with_interval(Proportion(value=0.5, low=0.095, high=0.905, k=1, n=2))
    '50.0 % (95 % interval 9.5 to 90.5, 1 of 2)'
    """
    if share is None:
        return "not measured"
    value, low, high = (f"{100 * part:.1f}" for part in (share.value, share.low, share.high))
    return f"{value} % (95 % interval {low} to {high}, {share.k} of {share.n})"


def headline(found: Audit) -> str:
    """The finding in one sentence, or that there is none."""
    verdict = found.verdict
    if verdict is not None and verdict.headline:
        return verdict.headline
    return "No verdict was reached"


def p_in_words(verdict: Inspection) -> str:
    """What the p-value says, without the jargon."""
    if verdict.p_value is None or verdict.alpha is None:
        return "No p-value could be computed, so this run supports no verdict."
    return words.p_in_words(verdict.p_value, verdict.alpha)
