"""What an audit comes to: the verdict, what was measured beside it, in words and for gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mithridate.errors import InputError
from mithridate.reports import attacks, select
from mithridate.reports.schema import Cell, Doubt, Proportion, Region, Study, Timing
from mithridate.reports.select import DONE, number_of, share_of, text_of, whole_of

CLEAN, VERDICT, EVASION = "clean", "verdict", "evasion"
BACKDOOR, NOISE = "backdoor", "white-noise"
"""Matrices of an audit, by name."""
CLASSES = ("source", "target", "truth_source", "truth_target")


@dataclass(frozen=True)
class Inspection:
    """One cell of the measure "inspection", and what of it has to be checked.

    Attributes:
        names: of the classes.
        shape: (channels, height, width) of an image; None where the record does not tell.
        region: (top, left, bottom, right), half-open, in pixels.
    """

    cell: Cell
    names: Sequence[str]
    shape: tuple[int, int, int] | None
    source: int | None
    target: int | None
    region: Region | None
    true_source: int | None
    true_target: int | None
    true_region: Region | None

    @property
    def done(self) -> bool:
        """Whether the inspector came to an end."""
        return self.cell.status == DONE

    @property
    def suspicious(self) -> bool | None:
        """The verdict; None where none was possible."""
        value = self.cell.values.get("suspicious")
        return value if isinstance(value, bool) else None

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        return text_of(self.cell, "headline").strip() or "No verdict was reached"


def inspection(study: Study, cell: Cell, names: Sequence[str] = ()) -> Inspection:
    """One cell, checked; `names` are those of the classes where the study has none.

    Raises:
        InputError: a class that there is not, or a region that is none.
    """
    shape = study.data.image_shape if study.data is not None else None
    names = select.names_of(study, cell) or names
    classes = {key: whole_of(cell, key) for key in CLASSES}
    given = [index for index in classes.values() if index is not None]
    if not names:  # by index, as far as the cell speaks of them
        count = max([len(select.list_of(cell, "distances")), *(index + 1 for index in given)])
        names = [str(k) for k in range(count)]
    for key, index in classes.items():
        if index is not None and not 0 <= index < len(names):
            many = f"there are {len(names)} classes"
            raise InputError(f"cell {cell.id}: {key} is class {index}, but {many}")
    return Inspection(
        cell=cell,
        names=names,
        shape=shape,
        source=classes["source"],
        target=classes["target"],
        region=region_of(text_of(cell, "region"), shape),
        true_source=classes["truth_source"],
        true_target=classes["truth_target"],
        true_region=region_of(text_of(cell, "truth_region"), shape),
    )


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


def summary(whole: Audit) -> dict[str, Any]:
    """The audit in a few values: for gates and for other programs."""
    verdict = whole.verdict
    cell = verdict.cell if verdict else None
    left = [row.accuracy_left.value for row in whole.attacks if row.accuracy_left]
    classes = {role: getattr(verdict, role, None) for role in ("source", "target")}
    names = {
        f"{role}_name": verdict.names[index] if verdict and index is not None else None
        for role, index in classes.items()
    }
    ranked = number_of(cell, "probability") is not None
    others = select.list_of(cell, "null_values") if cell and ranked else []
    return {
        "suspicious": verdict.suspicious if verdict else None,
        "probability": number_of(cell, "probability"),
        "p_value": number_of(cell, "p_value"),
        "least_p_value": 1 / (1 + len(others)) if others else None,  # of a rank among these
        "backdoor": text_of(cell, "backdoor") or None if cell else None,
        **classes,
        **names,
        "region": list(verdict.region) if verdict and verdict.region else None,
        "statistic": number_of(cell, "statistic"),
        "accuracy": whole.accuracy.value if whole.accuracy else None,
        "asr": number_of(cell, "recovered_asr"),
        "robust_accuracy": min(left) if left and len(left) == len(whole.attacks) else None,
        "status": whole.study.status,
    }


def details(whole: Audit) -> dict[str, Any]:
    """What other programs need beside the summary: shares with n and interval, null, doubts."""
    cell = whole.verdict.cell if whole.verdict else None
    recovered = share_of(cell, "recovered_asr")
    return {
        "alpha": number_of(cell, "alpha"),
        "null_values": [] if cell is None else select.list_of(cell, "null_values"),
        "intervals": {
            "accuracy": whole.accuracy.model_dump() if whole.accuracy else None,
            "asr": recovered.model_dump() if recovered else None,
            **{
                f"accuracy_left_{row.name}": row.accuracy_left.model_dump()
                for row in whole.attacks
                if row.accuracy_left
            },
        },
        "doubts": [doubt.model_dump() for doubt in doubts(whole)],
    }


def doubts(whole: Audit) -> list[Doubt]:
    """Those of the verdict, then what the audit left out."""
    return [*(whole.verdict.cell.doubts if whole.verdict else ()), *whole.study.doubts]


def verdict_line(whole: Audit) -> str:
    """The verdict in one line."""
    verdict = whole.verdict
    if verdict is None or not verdict.done:
        return "No verdict: the audit was cut short"
    parts = [verdict.headline]
    p_value, alpha = number_of(verdict.cell, "p_value"), number_of(verdict.cell, "alpha")
    probability, threshold = (
        number_of(verdict.cell, name) for name in ("probability", "threshold")
    )
    if probability is not None:
        alarm = "" if threshold is None else f" (alarm from {threshold:.2f})"
        parts.append(f"probability {probability:.2f}{alarm}")
    elif p_value is not None:
        parts.append(f"p = {p_value:.2g}" + ("" if alpha is None else f" (alarm at {alpha:g})"))
    if verdict.region is not None:
        top, left, bottom, right = verdict.region
        parts.append(f"trigger in rows {top} to {bottom - 1}, columns {left} to {right - 1}")
    return "; ".join(parts)


def figures(whole: Audit) -> list[tuple[str, str]]:
    """What was measured and how much, then the doubts: the rows of a table of two columns."""
    cell = whole.verdict.cell if whole.verdict else None
    rows = [("clean accuracy", with_interval(whole.accuracy))]
    rows += [
        (f"accuracy left by {row.name}", with_interval(row.accuracy_left)) for row in whole.attacks
    ]
    stamped = {"planted": whole.asr, "recovered": share_of(cell, "recovered_asr")}
    rows += [
        (f"success of the {which} trigger", with_interval(share))
        for which, share in stamped.items()
        if share is not None
    ]
    return rows + [(f"doubt: {doubt.id}", doubt.text) for doubt in doubts(whole)]


def with_interval(share: Proportion | None) -> str:
    """A share with its interval and count, for a terminal.

    >>> with_interval(Proportion(value=0.5, low=0.095, high=0.905, k=1, n=2))
    '50.0 % (95 % interval 9.5 to 90.5, 1 of 2)'
    """
    if share is None:
        return "not measured"
    value, low, high = (f"{100 * part:.1f}" for part in (share.value, share.low, share.high))
    return f"{value} % (95 % interval {low} to {high}, {share.k} of {share.n})"
