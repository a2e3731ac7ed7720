"""From a finished study to its folder, its summary and its exit code."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mithridate.cli.gate import Gate
from mithridate.cli.screen import Screen, share
from mithridate.errors import RunError

if TYPE_CHECKING:
    from mithridate.studies.engine.records import Records

BREACHED, OPEN, INTERRUPTED = 1, 3, 130


def prepare(out: Path) -> Path:
    """Make the folder and try to write there: before the work, not after it.

    Raises:
        RunError: it cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        for part in out.glob(".*.part"):
            if not _alive(part.name.split(".")[-2]):  # of a run that was killed
                part.unlink(missing_ok=True)
        return out
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror or error}; choose another --out"
        ) from None


def _alive(pid: str) -> bool:
    """Whether a process of this machine has that number.

    >>> import os
    >>> _alive("0x"), _alive(str(os.getpid()))
    (False, True)
    """
    return pid.isdecimal() and Path(f"/proc/{pid}").exists()


def store(record: Mapping[str, Any], arrays: Mapping[str, Any], out: Path) -> Path:
    """Write record, arrays and report; returns the report's place."""
    from mithridate import reports

    reports.write(out, reports.Record.model_validate(record), arrays)
    return reports.render(out)


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """What an audit found, in a few values: for gates and for other programs."""
    verdict = record["verdict"] or {}
    rates = record["backdoor"] or {}
    left = [row["accuracy_left"]["value"] for row in record["attacks"] if row["accuracy_left"]]
    names = record["data"]["class_names"]
    found = {key: verdict.get(key) for key in ("suspicious", "p_value", "source", "target")}
    for role in ("source", "target"):
        index = found[role]
        found[f"{role}_name"] = None if index is None else names[index]
    return found | {
        "region": verdict.get("region"),
        "statistic": (verdict.get("statistic") or {}).get("value"),
        "accuracy": _value(rates.get("clean_accuracy")),
        "asr": _value(rates.get("recovered_asr")),
        "robust_accuracy": min(left) if len(left) == len(record["attacks"]) and left else None,
        "status": record["status"],
    }


def verdict_line(record: Mapping[str, Any]) -> str:
    """The verdict in one line."""
    verdict = record["verdict"]
    if verdict is None:
        return "No verdict: the audit was cut short"
    parts = [verdict["headline"]]
    if verdict["p_value"] is not None:
        parts.append(f"p = {verdict['p_value']:.2g} (alarm at {verdict['alpha']:g})")
    if verdict["region"] is not None:
        top, left, bottom, right = verdict["region"]
        parts.append(f"trigger in rows {top} to {bottom - 1}, columns {left} to {right - 1}")
    return "; ".join(parts)


def show(record: Mapping[str, Any], screen: Screen) -> None:
    """The figures of an audit, then its doubts, then the verdict."""
    rates, verdict = record["backdoor"], record["verdict"]
    rows = [("clean accuracy", share(rates["clean_accuracy"]))]
    rows += [
        (f"accuracy left by {row['name']}", share(row["accuracy_left"]))
        for row in record["attacks"]
    ]
    if rates["asr"] is not None:
        rows.append(("success of the planted trigger", share(rates["asr"])))
    if rates["recovered_asr"] is not None:
        rows.append(("success of the recovered trigger", share(rates["recovered_asr"])))
    doubts = (verdict or {}).get("doubts", ())
    rows += [(f"doubt: {doubt['id']}", doubt["text"]) for doubt in doubts]
    screen.table(("measured", "value"), rows)
    screen.say(verdict_line(record))


def conclude(
    record: Mapping[str, Any], path: Path, screen: Screen, gate: Gate | None = None
) -> int:
    """Print the result, pass the gate or not; returns the exit code."""
    found = summary(record)
    complete = record["status"] == "complete"
    breached = gate.breached(found) if gate is not None else False
    show(record, screen)
    screen.data(found | {"gate": breached if gate is not None else None, "report": str(path)})
    if gate is not None and breached:
        screen.note(f"gate breached: {gate.text}")
    elif gate is not None and (breached is None or not complete):
        screen.note(f"gate not passed: the audit cannot decide {gate.text!r}")
    screen.say(f"Report: {path}")
    if gate is None:
        return 0 if complete else 4
    return BREACHED if breached else OPEN if breached is None or not complete else 0


def _value(found: Mapping[str, Any] | None) -> float | None:
    return None if found is None else float(found["value"])


def study(found: Records, out: Path) -> Path:
    """Write a study's records and report; returns the report's place.

    The report of a study that is one audit is the audit's.
    """
    from mithridate import reports
    from mithridate.reports.folder import ARRAYS, RECORD
    from mithridate.reports.study.folder import write

    for name in (ARRAYS, RECORD):
        (out / name).unlink(missing_ok=True)
    write(
        out,
        found.study,
        found.cells,
        images=found.images,
        pictures=dict(found.pictures),
        timings=found.timings,
    )
    if found.audit is not None:
        from safetensors.numpy import load_file

        record = json.loads((found.audit / RECORD).read_bytes())
        record["command"] = found.study["command"]
        pictures = found.audit / "pictures.safetensors"
        reports.write(out, reports.Record.model_validate(record), load_file(pictures))
    return reports.render(out)
