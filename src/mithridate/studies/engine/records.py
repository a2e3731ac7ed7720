"""The records of a study: one row per cell, its per-image table and its pictures, no timings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import torch

from mithridate import component
from mithridate.errors import InputError
from mithridate.networks.storage import read_tensors
from mithridate.studies.engine.cells import Cell
from mithridate.studies.engine.compare import check, comparisons, finding
from mithridate.studies.engine.entry import TIMING, Damaged, Entry
from mithridate.studies.engine.plan import Plan
from mithridate.studies.engine.run import Ran
from mithridate.studies.engine.spec import Spec, in_keys, merge
from mithridate.studies.engine.store import Store
from mithridate.studies.engine.tables import COLUMNS, read_table
from mithridate.studies.engine.unit import Unit, canonical
from mithridate.studies.measures.base import PICTURES, TABLE, Done
from mithridate.studies.parts import environment

V = TypeVar("V")


class Records(NamedTuple):
    """All that a study's folder holds but the report.

    Attributes:
        study: for `study.json`.
        cells: for `cells.jsonl`, one each.
        images: cell -> its per-image table; read when asked for.
        pictures: yields "CELL:NAME" and the array.
        timings: for `timings.jsonl`, which differ from run to run.
    """

    study: dict[str, Any]
    cells: list[dict[str, Any]]
    images: pa.Table
    pictures: Iterator[tuple[str, Any]]
    timings: list[dict[str, Any]]


def assemble(plan: Plan, store: Store, ran: Ran, *, command: str) -> Records:
    """Read every cell's product and put the records together.

    The same products give the same records, whoever made them and when; what differs from run
    to run is in `timings` alone.
    """
    entries: dict[str, Entry] = {}
    rows = []
    leaves, refused = dict(_by_id(plan.leaves)), dict(_by_id(plan.refused))
    for cell in plan.cells:
        if cell.id in refused:
            rows.append(_row(cell, "", None, f"refused: {refused[cell.id]}"))
            continue
        leaf = leaves[cell.id]
        entry = _entry(store, leaf)
        if entry is not None:
            entries[cell.id] = entry
        rows.append(_row(cell, leaf.key, entry, _why(leaf, ran, plan.spec)))
    tables = _tables(plan, entries)
    _compare(plan, rows, tables)
    study = (
        header(plan.spec, plan, command)
        | _described(plan, entries)
        | {
            "status": "complete" if len(entries) == len(rows) else "incomplete",
            "class_names": _class_names(entries),
            "comparisons": comparisons(plan.spec, rows, tables),
            "finding": finding(plan.spec, rows) or _headline(rows),
        }
    )
    return Records(
        study=study,
        cells=rows,
        images=_one_table(tables),
        pictures=_pictures(plan, entries),
        timings=_timings(plan, store, ran),
    )


def _compare(plan: Plan, rows: list[dict[str, Any]], tables: Mapping[str, pa.Table]) -> None:
    """Add what cells of one measure make of each other's figures."""
    by_id, by_measure = {row["id"]: row for row in rows}, dict[str, list[Done]]()
    for cell in plan.cells:
        if cell.id in tables:
            done = Done(
                cell.id, cell.settings, cell.labels, by_id[cell.id]["values"], tables[cell.id]
            )
            by_measure.setdefault(cell.measure, []).append(done)
    for name, cells in by_measure.items():
        for id, doubts in component.find("measures", name)().compared(cells).items():
            by_id[id]["doubts"] += [{"id": doubt.id, "text": doubt.text} for doubt in doubts]


def header(spec: Spec, plan: Plan, command: str) -> dict[str, Any]:
    """What is known of a study before it has run.

    Raises:
        InputError: its findings or comparisons cannot be told.
    """
    check(spec)
    columns: dict[str, Any] = {}
    views: list[dict[str, Any]] = []
    for name, matrix in spec.matrix.items():
        measure = component.find("measures", matrix.measure)
        columns = dict(measure.columns) | columns
        views += [{**view, "matrix": name} for view in measure.views]
    resolved = spec.model_dump(exclude={"scales", "view", "published", "columns", "extends"})
    return {
        "schema": 1,
        "name": spec.name,
        "title": spec.title,
        "question": spec.question,
        "finding": "",
        "command": command,
        "scale": spec.scale,
        "status": "incomplete",
        "spec": resolved,
        "spec_sha256": hashlib.sha256(canonical(resolved).encode()).hexdigest(),
        "class_names": {},
        "matrices": [
            {
                "name": name,
                "title": matrix.title or name,
                "measure": matrix.measure,
                "note": matrix.note,
                "axes": _axes(plan, name),
            }
            for name, matrix in spec.matrix.items()
        ],
        "columns": merge(columns, spec.columns),
        "views": spec.view or ([] if spec.preset else views),
        "published": spec.published,
        "comparisons": [],
        "doubts": [{"id": key, "text": text} for key, text in spec.doubts.items()],
        "environment": environment(torch.device(spec.device), spec.seed)
        | {"threads": spec.threads, "taxonomy": _taxonomy(plan)},
    }


def _taxonomy(plan: Plan) -> dict[str, dict[str, list[str]]]:
    """The study's attacks, poisons and defences in MITRE ATLAS and NIST AI 100-2, by their ids."""
    ids: dict[str, dict[str, list[str]]] = {}
    for choice in (choice for unit in plan.order for choice in unit.choices()):
        about = getattr(component.find(choice.kind, choice.name), "about", None)
        if about is not None and (about.atlas or about.nist):
            nist = [f"NISTAML.{number}" for number in about.nist]
            known = {"MITRE ATLAS 5.6.0": list(about.atlas), "NIST AI 100-2e2025": nist}
            ids[choice.name] = {key: each for key, each in known.items() if each}
    return ids


def _axes(plan: Plan, matrix: str) -> dict[str, list[Any]]:
    """Axis -> the labels that its cells have, in order."""
    labels_of: dict[str, list[Any]] = {}
    for cell in plan.cells:
        if cell.matrix == matrix:
            for axis, label in cell.labels.items():
                labels = labels_of.setdefault(axis, [])
                if label not in labels:
                    labels.append(label)
    return labels_of


def _entry(store: Store, leaf: Unit[Any]) -> Entry | None:
    """The product of a cell; None where there is none, or a damaged one."""
    if not store.has(leaf.key):
        return None
    try:
        return store.read(leaf.key)
    except Damaged:
        store.discard(leaf.key)
        return None


def _by_id(pairs: Iterable[tuple[Cell, V]]) -> Iterator[tuple[str, V]]:
    return ((cell.id, value) for cell, value in pairs)


def _why(leaf: Unit[Any], ran: Ran, spec: Spec) -> str:
    """The status of a cell without a product."""
    failure = ran.failed.get(leaf.key)
    if failure is None:
        return "not run"
    if not spec.preset:
        return f"failed: {in_keys(failure.reason)}"
    refused = failure.exit_code == InputError.exit_code
    return f"{'refused' if refused else 'failed'}: {failure.reason}"


def _row(cell: Cell, key: str, entry: Entry | None, why: str) -> dict[str, Any]:
    product: Mapping[str, Any] = {"values": {}, "doubts": []} if entry is None else entry.values
    return {
        "id": cell.id,
        "matrix": cell.matrix,
        "axes": dict(cell.labels),
        "status": why if entry is None else "done",
        "unit": key,
        "values": dict(product["values"]),
        "doubts": list(product["doubts"]),
    }


def _described(plan: Plan, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """The models and the data of a verb's study, from the cells that measured clean accuracy."""
    models, data = [], None
    for cell, _ in plan.leaves:
        entry = entries.get(cell.id)
        if cell.measure != "accuracy" or entry is None:
            continue
        values = entry.values["values"]
        role = str(cell.labels.get("role", "model"))
        about = {key: values[key] for key in ("sha256", "architecture", "parameters")}
        called = cell.settings.get("called") or cell.settings.get("model") or "trained here"
        models.append({"role": role, "name": str(called), **about})
        data = data or {
            "name": values["data"],
            "n": values["images"],
            "class_names": entry.values["class_names"],
            "image_shape": [int(size) for size in values["image_shape"]],
            "sha256": values["data_sha256"],
        }
    about = {"preset": plan.spec.preset, "models": models, "data": data}
    if plan.spec.preset:  # a verb's run is an event; a study's record says nothing of its hour
        about["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    return about


def _tables(plan: Plan, entries: Mapping[str, Entry]) -> dict[str, pa.Table]:
    """Cell -> its per-image results, where it has such."""
    by_cell = {}
    for cell, _ in plan.leaves:
        entry = entries.get(cell.id)
        if entry is not None and TABLE in entry.files:
            by_cell[cell.id] = read_table(entry.folder / TABLE)
    return by_cell


def _one_table(tables: Mapping[str, pa.Table]) -> pa.Table:
    """All cells' images in one table, the cell's id first."""
    schema = pa.schema([("cell", pa.dictionary(pa.int32(), pa.string())), *COLUMNS])
    parts = []
    for cell, table in tables.items():
        ids = pa.array([cell] * len(table), pa.dictionary(pa.int32(), pa.string()))
        parts.append(table.select(COLUMNS.names).cast(COLUMNS).add_column(0, schema.field(0), ids))
    return pa.concat_tables(parts).unify_dictionaries() if parts else schema.empty_table()


def _pictures(plan: Plan, entries: Mapping[str, Entry]) -> Iterator[tuple[str, Any]]:
    for cell, _ in plan.leaves:
        entry = entries.get(cell.id)
        if entry is not None and PICTURES in entry.files:
            tensors, _ = read_tensors(entry.folder / PICTURES)
            for name in sorted(tensors):
                yield f"{cell.id}:{name}", tensors[name].numpy()


def _headline(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a study of one cell found, where its measure says so in words."""
    return str(rows[0]["values"].get("headline", "")) if len(rows) == 1 else ""


def _class_names(entries: Mapping[str, Entry]) -> dict[str, list[str]]:
    """Cell -> the names of its data's classes, where its measure tells; once where all agree."""
    named = {cell: entry.values.get("class_names") for cell, entry in entries.items()}
    known = {cell: list(names) for cell, names in named.items() if names}
    first = next(iter(known.values()), [])
    return {"all": first} if known and all(n == first for n in known.values()) else known


def _timings(plan: Plan, store: Store, ran: Ran) -> list[dict[str, Any]]:
    """Seconds of every finished unit, and the cells that it served."""
    rows = []
    for unit in plan.order:
        if not unit.stored or not store.has(unit.key):
            continue
        rows.append(
            {
                "unit": unit.key,
                "kind": unit.kind,
                "cells": plan.users[unit.key],
                "seconds": ran.seconds.get(unit.key) or _seconds(store.folder(unit.key)),
                "cached": unit.key not in ran.made,
            }
        )
    return rows


def _seconds(folder: Path) -> float:
    """What an earlier run took to make a unit."""
    try:
        return float(json.loads((folder / TIMING).read_bytes())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):  # it is not part of the unit
        return 0.0
