"""Records of version 0.1.0, `record.json` and `arrays.npz`, read as the study that they are now."""

from __future__ import annotations

import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mithridate.errors import InputError
from mithridate.reports import words
from mithridate.reports.audit import BACKDOOR, CLEAN, EVASION, NOISE, VERDICT
from mithridate.reports.folder import ARRAYS, RECORD, StudyFolder, as_json, content, damaged, parts
from mithridate.reports.images import Array

RUN_AGAIN = "run the audit or the attack again"
NAMES = {
    "confusion_clean": (CLEAN, "confusion_clean"),
    "mean_images": (CLEAN, "mean_images"),
    "confusion_poisoned": (VERDICT, "confusion_stamped"),
    "examples_stamped": (VERDICT, "examples_changed"),
}
"""Where an array lies now; those of the attacks are spread over their cells, the rest are the
verdict's under their own name."""
MEASURED = (
    *("success", "accuracy_left", "mean_linf"),
    *(f"{middle}_{of}" for of in ("l2", "distance") for middle in ("mean", "median")),
)
"""Of an attack, where they are numbers."""
MEASURES = {CLEAN: "accuracy", VERDICT: "inspection", NOISE: "noise", BACKDOOR: "backdoor"}
Raw = Mapping[str, Any]


def read(folder: Path) -> StudyFolder:
    """The audit or the attacks of a folder, as a study in memory.

    Raises:
        InputError: a record or arrays that are broken, foreign, or of another version.
    """
    path = folder / RECORD
    raw = as_json(content(path), str(path))
    if not isinstance(raw, dict) or "schema" not in raw:
        raise InputError(f"{path} is no Mithridate record: expected an object with a schema field")
    if raw["schema"] != 1 or isinstance(raw["schema"], bool):
        raise InputError(
            f"{path} has schema {raw['schema']!r:.40}, this version reads schema 1: "
            "use the version of mithridate that wrote it"
        )
    arrays = _arrays(folder / ARRAYS)
    try:
        attacks = "attacks" if raw["kind"] == "attack" else EVASION
        cells = [*_clean(raw), *_verdict(raw), *_attacks(raw, attacks), *_backdoor(raw)]
        cells += _noise(raw)
        pictures = _pictures(raw, arrays, attacks)
        study, checked, timings = parts(_study(raw, cells), cells, list(_timings(raw, attacks)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__} {error}"
        raise InputError(
            f"{path} is no record of an audit or attack ({reason}): {RUN_AGAIN}"
        ) from None
    return StudyFolder(folder, study, checked, timings, pictures)


def _study(raw: Raw, cells: list[dict[str, Any]]) -> dict[str, Any]:
    matrices: dict[str, dict[str, list[Any]]] = {}
    for cell in cells:
        axes = matrices.setdefault(cell["matrix"], {})
        for axis, label in cell["axes"].items():
            axes.setdefault(axis, []).append(label)
    models = [{"role": "suspect" if raw["kind"] == "audit" else "model"} | _model(raw["model"])]
    if raw["reference"] is not None:
        models.append({"role": "reference"} | _model(raw["reference"]))
    empty: dict[str, Any] = dict.fromkeys(("question", "finding", "scale", "spec_sha256"), "")
    empty |= {name: {} for name in ("class_names", "columns")}
    empty |= {name: [] for name in ("views", "published", "comparisons", "doubts")}
    same = ("title", "created", "command", "status", "data", "environment")
    return {
        **empty,
        **{name: raw[name] for name in same},
        "schema": 1,
        "name": raw["kind"],
        "preset": raw["kind"],
        "spec": raw["settings"],
        "models": models,
        "matrices": [
            {"name": name, "title": "", "measure": MEASURES.get(name, "evasion"), "axes": axes}
            for name, axes in matrices.items()
        ],
    }


def _model(raw: Raw) -> dict[str, Any]:
    return {key: raw[key] for key in ("name", "sha256", "architecture", "parameters")}


def _cell(matrix: str, at: int, axes: Raw, values: Raw, **more: Any) -> dict[str, Any]:
    cell = {"id": f"{matrix}/{at:04d}", "matrix": matrix, "axes": dict(axes), "status": "done"}
    return cell | {"unit": "", "values": dict(values), "doubts": []} | more


def _clean(raw: Raw) -> list[dict[str, Any]]:
    """The accuracy of suspect and reference, and the confusion of the first."""
    cells = []
    roles = {"suspect" if raw["kind"] == "audit" else "model": raw["model"]}
    roles |= {"reference": raw["reference"]} if raw["reference"] is not None else {}
    for at, (role, model) in enumerate(roles.items()):
        share = model["clean_accuracy"]
        values, status = ({}, "not run") if share is None else ({"accuracy": share}, "done")
        cells.append(_cell(CLEAN, at, {"role": role}, values, status=status))
    return cells


def _verdict(raw: Raw) -> list[dict[str, Any]]:
    """The verdict with what lies about it; further settings of the distances are further cells."""
    if raw["kind"] == "attack":
        return []
    verdict = raw["verdict"]
    charts = []
    for row in raw["distances"]:
        charts.append({key: row[key] for key in ("probe", "eps", "steps", "samples")})
        charts[-1]["distances"] = row["suspect"]
        charts[-1] |= {"clean_distances": row["clean"]} if row["clean"] is not None else {}
    values: dict[str, Any] = dict(charts[0]) if charts else {}
    cost, planted = raw["cost"], raw["backdoor"] or {}
    values |= {"queries": cost["queries"], "gradients": cost["gradients"]}
    values["controls"] = raw["controls"]
    values["ranking_class"] = [row["class"] for row in raw["ranking"]]
    values["ranking_score"] = [row["score"] for row in raw["ranking"]]
    if verdict is not None:
        keys = ("suspicious", "p_value", "alpha", "headline", "null", "source", "target")
        values |= {key: verdict[key] for key in keys}
        values["region"] = _region(verdict["region"])
        if verdict["statistic"] is not None:
            values["statistic"] = verdict["statistic"]["value"]
            values["statistic_name"] = verdict["statistic"]["name"]
            values["null_values"] = verdict["statistic"]["null_values"]
    if planted.get("recovered_asr") is not None:
        values["recovered_asr"] = planted["recovered_asr"]
    if planted.get("truth") is not None:
        truth = planted["truth"]
        values |= {f"truth_{key}": truth[key] for key in ("source", "target")}
        values |= {"truth_region": _region(truth["region"]), "iou": truth["iou"]}
    doubts = [] if verdict is None else verdict["doubts"]
    status = "not run" if verdict is None else "done"
    first = _cell(VERDICT, 0, {}, values, doubts=doubts, status=status)
    return [first, *(_cell(VERDICT, at, {}, chart) for at, chart in enumerate(charts[1:], 1))]


def _region(region: list[int] | None) -> str | None:
    return None if region is None else ", ".join(map(str, region))


def _attacks(raw: Raw, matrix: str) -> list[dict[str, Any]]:
    aim = raw.get("aim") or {}
    cells = []
    for at, row in enumerate(raw["attacks"]):
        n = row["n"]
        values = {
            "access": "+".join(row.get("access", ())),
            "kind": row.get("kind") or "",
            "norm": row.get("norm") or "",
            "settings": ", ".join(f"{k}={words.setting(v)}" for k, v in row["settings"].items()),
            "goal": aim.get("goal", ""),
        }
        values |= {key: row[key] for key in MEASURED if row.get(key) is not None}
        values |= {key: aim[key] for key in ("target", "wrong", "left_out") if key in aim}
        eps = row["settings"].get("eps")
        values |= {"eps": eps} if isinstance(eps, int | float) else {}
        if n:
            values |= {key: row[key] / n for key in ("queries", "gradients")}
        status = row.get("status", "done")
        status = "not run" if status == "done" and not n else status
        axes = {"attack": row["name"]}
        cells.append(_cell(matrix, at, axes, values, doubts=row["doubts"], status=status))
    return cells


def _backdoor(raw: Raw) -> list[dict[str, Any]]:
    planted = raw["backdoor"]
    if planted is None or planted["asr"] is None:
        return []
    accuracy = planted["clean_accuracy"]
    values = {"asr": planted["asr"]} | ({"accuracy": accuracy} if accuracy is not None else {})
    return [_cell(BACKDOOR, 0, {}, values)]


def _noise(raw: Raw) -> list[dict[str, Any]]:
    noise = raw["white_noise"]
    values = noise and {key: noise[key] for key in ("queries", "distances", "note")}
    return [] if noise is None else [_cell(NOISE, 0, {}, values)]


def _timings(raw: Raw, attacks: str) -> Iterator[dict[str, Any]]:
    spent = [(f"{attacks}/{at:04d}", row["seconds"]) for at, row in enumerate(raw["attacks"])]
    if raw["kind"] == "audit":
        spent.append((f"{VERDICT}/0000", raw["cost"]["seconds"]))
    if raw["white_noise"] is not None:
        spent.append((f"{NOISE}/0000", raw["white_noise"]["seconds"]))
    for cell, seconds in spent:
        kind = cell.partition("/")[0]
        yield {"unit": "", "kind": kind, "cells": [cell], "seconds": seconds, "cached": False}


def _arrays(path: Path) -> dict[str, Array]:
    """The arrays of a run, none where there is no file of them."""
    if not path.exists():
        return {}
    broken = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            with stored:
                return {name: _finite(stored[name]) for name in stored.files}
    except broken as error:
        raise damaged(path, error) from None


def _finite(array: NDArray[np.generic]) -> Array:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"an array of {array.dtype}")
    values = array.astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _pictures(raw: Raw, arrays: Mapping[str, Array], attacks: str) -> dict[str, dict[str, Array]]:
    """Cell -> its pictures by name."""
    pictures: dict[str, dict[str, Array]] = defaultdict(dict)
    for name, array in arrays.items():
        if name in ("attack_clean", "attack_adversarial"):
            kind = "clean" if name == "attack_clean" else "changed"
            pictures[f"{attacks}/0000"][f"examples_{kind}"] = array
        elif name.startswith("grid_"):
            for at in range(len(raw["attacks"])):
                each = array[at] if name in ("grid_adversarial", "grid_predicted") else array
                pictures[f"{attacks}/{at:04d}"][name] = each
        elif name != "attack_difference":
            matrix, now = NAMES.get(name, (VERDICT, name))
            pictures[f"{matrix}/0000"][now] = array
    if raw["kind"] == "audit" and raw["pairs"] is not None:
        pictures[f"{VERDICT}/0000"]["pair_scores"] = np.array(raw["pairs"], np.float64)
    return dict(pictures)
