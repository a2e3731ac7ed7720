"""A made-up study with every kind of view, the same on every call."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mithridate.reports.folder import write

CLASSES = [str(k) for k in range(10)]
IMAGES = 200
ATTACKS = {"FGSM": 0.45, "I-FGSM": 0.72, "PGD": 0.8}
EPS = [0.1, 0.3, 0.5]
SEEDS = [0, 1, 2]
PAIRS = ["8 to 9", "0 to 3"]


def share(k: int, n: int) -> dict[str, Any]:
    """A proportion as the record holds it."""
    z, p = 1.959963984540054, k / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))
    return {"value": p, "low": low, "high": high, "k": k, "n": n}


def mean(values: np.ndarray) -> dict[str, Any]:
    """A mean as the record holds it."""
    value, sd = float(values.mean()), float(values.std(ddof=1))
    half = 1.96 * sd / math.sqrt(len(values))
    ends = {"low": value - half, "high": value + half}
    return {"value": value, **ends, "n": len(values), "sd": sd}


def judged(cell: str, rate: float, eps: float, random: np.random.Generator) -> dict[str, Any]:
    """Rows of images of one cell."""
    labels = np.arange(IMAGES) % 10
    clean = np.where(random.random(IMAGES) < 0.97, labels, (labels + 1) % 10)
    success = (random.random(IMAGES) < rate) & (clean == labels)
    l2 = np.where(success, eps * random.gamma(8, 0.5, IMAGES), 0)
    return {
        "cell": [cell] * IMAGES,
        "image": range(IMAGES),
        "label": labels,
        "clean": clean,
        "predicted": np.where(success, (labels + 3) % 10, clean),
        "success": success,
        "l0": np.where(success, 700, 0),
        "l1": l2 * 20,
        "l2": l2,
        "linf": np.where(success, eps, 0),
        "queries": [int(q) for q in random.integers(5, 2000, IMAGES)],
    }


def evasion(change: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Cells and image rows of the matrix "evasion"."""
    cells, rows = [], []
    for name, base in ATTACKS.items():
        for eps in EPS:
            for seed in SEEDS:
                number = len(cells)
                cell = f"evasion/{number:04d}"
                random = np.random.default_rng(number)
                axes = {"data": "mnist", "attack": name, "eps": eps, "seed": seed}
                made = {"id": cell, "matrix": "evasion", "axes": axes, "unit": f"{number:064x}"}
                made |= {"status": "done", "values": {}, "doubts": []}
                cells.append(made)
                if (name, eps) == ("PGD", 0.5):
                    lost = "failed: the worker was lost three times"
                    made["status"] = lost if seed == 1 else "not run"
                    continue
                found = judged(cell, min(1, base * (0.4 + 1.4 * eps)) + change, eps, random)
                rows.append(found)
                success, right = found["success"], found["predicted"] == found["label"]
                made["values"] = {
                    "success": share(int(success.sum()), IMAGES),
                    "accuracy_left": share(int(right.sum()), IMAGES),
                    "l2": mean(found["l2"][success]),
                    "gradients": IMAGES * (1 if name == "FGSM" else 40),
                }
                if name == "FGSM":
                    del made["values"]["l2"]
                if name == "PGD":
                    made["doubts"] = [{"id": "not-converged", "text": "Loss still rose at the end"}]
                if eps == 0.5:
                    made["doubts"] = [
                        *made["doubts"],
                        {"id": "visible", "text": "At eps 0.5 a person sees the change"},
                    ]
    return cells, rows


def backdoors() -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Cells of the matrix "badnets", and pictures."""
    cells, pictures = [], {}
    for number, pair in enumerate(PAIRS):
        cell, random = f"badnets/{number:04d}", np.random.default_rng(100 + number)
        distances = [float(d) for d in random.gamma(4, 0.2, 10)]
        distances[int(pair[-1])] += 2.0
        values = {
            "asr": share(985 - number, 1000),
            "found": number == 0,
            "verdict": pair,
            "distances": distances,
            "clean_distances": [float(d) for d in random.gamma(4, 0.2, 10)],
        }
        cells.append(
            {
                "id": cell,
                "matrix": "badnets",
                "axes": {"pair": pair},
                "status": "done",
                "unit": f"{900 + number:064x}",
                "values": values,
                "doubts": [],
            }
        )
        pictures |= {f"{cell}:{name}": array for name, array in arrays(random, pair).items()}
    return cells, pictures


def arrays(random: np.random.Generator, pair: str) -> dict[str, np.ndarray]:
    """Every sort of picture."""
    rows, columns = np.mgrid[0:14, 0:14]
    means = np.stack(
        [
            np.exp(-((rows - 7 - 3 * math.sin(k)) ** 2 + (columns - 7 - 3 * math.cos(k)) ** 2) / 14)
            for k in range(10)
        ]
    )[:, None]
    trigger = np.full((1, 14, 14), np.nan)
    trigger[:, 1:4, 10:13] = 1.0
    stamped = np.where(np.isnan(trigger), means, 1.0)
    counts = np.eye(10) * 95 + random.integers(0, 3, (10, 10))
    poisoned = counts.copy()
    poisoned[int(pair[0])] = 0
    poisoned[int(pair[0]), int(pair[-1])] = 100
    maps = means + 0.1 * random.standard_normal(means.shape)
    maps[3] = np.nan
    group = np.repeat([0, 1], 60)
    return {
        "confusion_clean": counts,
        "confusion_stamped": poisoned,
        "mean_images": means,
        "mean_stamped": stamped,
        "examples_clean": means[:4],
        "examples_changed": stamped[:4],
        "maps_suspect": maps,
        "maps_reference": means * 0.9,
        "map_share_suspect": np.full(10, 0.1),
        "map_share_reference": np.full(10, 0.1),
        "difference": stamped[0] - means[0],
        "trigger": trigger,
        "embedding": random.standard_normal((120, 2)) + group[:, None] * 3,
        "embedding_label": np.tile(np.arange(10), 12),
        "embedding_group": group,
    }


VIEWS: list[dict[str, Any]] = [
    {"kind": "table", "matrix": "evasion", "title": "Every cell"},
    {"kind": "table", "matrix": "evasion", "title": "Over seeds", "over": "seed",
     "values": ["success", "accuracy_left"]},
    {"kind": "bars", "matrix": "evasion", "title": "Accuracy left by attack",
     "value": "accuracy_left", "by": "eps", "series": "attack", "over": "seed"},
    {"kind": "curve", "matrix": "evasion", "title": "Success by eps", "value": "success",
     "x": "eps", "series": "attack", "over": "seed"},
    {"kind": "budget", "matrix": "evasion", "title": "Fooled within a distance",
     "where": {"seed": 0, "eps": 0.3}},
    {"kind": "queries", "matrix": "evasion", "title": "Fooled within so many queries",
     "where": {"seed": 0, "eps": 0.3}},
    {"kind": "table", "matrix": "badnets", "title": "Backdoors"},
    {"kind": "classes", "matrix": "badnets", "title": "Distance by class", "value": "distances",
     "reference": "clean_distances"},
    {"kind": "pictures", "matrix": "badnets", "title": "What the models do"},
]  # fmt: skip
FINDING = (
    "PGD fools 79.0 % of 200 images at eps 0.3, 1.7 times as many as FGSM. Both backdoors reach "
    "98 % of their images; one of them was found."
)


def study(name: str = "fake") -> dict[str, Any]:
    """`study.json`."""
    columns: dict[str, Any] = {
        "success": {"title": "success", "unit": "share", "better": "down"},
        "accuracy_left": {"title": "accuracy left", "unit": "share", "better": "up"},
        "l2": {"title": "mean L2", "note": "over the images that were fooled"},
        "gradients": {"title": "gradients"},
        "asr": {"title": "attack success", "unit": "share", "better": "down"},
        "found": {"title": "found", "unit": "flag"},
        "verdict": {"title": "verdict", "unit": "text"},
    }
    compared = {"matrix": "evasion", "value": "success", "n": IMAGES}
    matrices = [
        {"name": "evasion", "title": "Attacks on MNIST", "measure": "evasion",
         "axes": {"data": ["mnist"], "attack": list(ATTACKS), "eps": EPS, "seed": SEEDS}},
        {"name": "badnets", "title": "Backdoors", "measure": "backdoor",
         "axes": {"pair": PAIRS}},
    ]  # fmt: skip
    return {
        "schema": 1,
        "name": name,
        "title": "Attacks and backdoors on MNIST",
        "question": "Which attack fools the digit classifier within a given budget, and are its "
        "backdoors found?",
        "finding": FINDING,
        "command": f"mithridate run {name} --set scale=small",
        "scale": "small",
        "status": "complete",
        "spec": {"seed": 0, "matrix": {"evasion": {"axes": {"eps": EPS}}}},
        "spec_sha256": "ab" * 32,
        "class_names": {"mnist": CLASSES},
        "matrices": matrices,
        "columns": columns,
        "views": VIEWS,
        "published": [
            {"matrix": "evasion", "where": {"attack": "FGSM", "eps": 0.3, "seed": 0},
             "value": "accuracy_left", "published": 0.299, "source": "001, figure 8",
             "reason": "another network, and 200 images in place of 10,000"},
            {"matrix": "evasion", "where": {"attack": "PGD", "eps": 0.5}, "value": "success",
             "published": 1.0, "source": "001, table 4", "reason": "not run here"},
            {"matrix": "badnets", "where": {}, "value": "asr", "published": 0.99,
             "source": "003, table 1"},
        ],
        "comparisons": [
            compared | {"title": "PGD against FGSM, eps 0.3", "first": "PGD", "second": "FGSM",
                        "difference": 0.29, "unpaired": [0.197, 0.383], "paired": [0.2, 0.374],
                        "mcnemar": 1.2e-9, "holm": 2.4e-9},
            compared | {"title": "PGD against I-FGSM, eps 0.3", "first": "PGD",
                        "second": "I-FGSM", "difference": 0.04, "unpaired": [-0.05, 0.13],
                        "paired": None, "mcnemar": None, "holm": None},
        ],
        "doubts": [{"id": "small-scale", "text": "200 images a cell, where the document took "
                    "10,000"}],
        "environment": {"torch": "2.13.0", "device": "cpu", "threads": 1},
    }  # fmt: skip


def make(folder: Path, change: float = 0.0, **more: Any) -> Path:
    """Write the study into a folder; `change` moves every success rate."""
    cells, rows = evasion(change)
    more_cells, pictures = backdoors()
    columns = {name: np.concatenate([list(row[name]) for row in rows]) for name in rows[0]}
    timings = [
        {"unit": c["unit"], "kind": "adversarial", "cells": [c["id"]], "seconds": 2.5 + at,
         "cached": at % 4 == 0}
        for at, c in enumerate(cells)
    ]  # fmt: skip
    write(folder, study() | more, cells + more_cells, pa.table(columns), pictures, timings)
    return folder


def many(folder: Path, count: int = 10_000) -> Path:
    """A study of `count` cells in one table."""
    side = round(math.sqrt(count))
    doubt = {"id": "tiny", "text": "One image a cell"}
    cells = [
        {"id": f"grid/{at:05d}", "matrix": "grid", "unit": f"{at:064x}",
         "axes": {"row": at // side, "column": at % side},
         "status": "done" if at % 97 else "not run", "doubts": [doubt][at % 2:],
         "values": {"success": share(at % 101, 100), "loss": math.sin(at), "l2": at / 7}}
        for at in range(count)
    ]  # fmt: skip
    for cell in cells:
        if cell["status"] != "done":
            cell["values"] = {}
    axes = {"row": list(range(-(-count // side))), "column": list(range(side))}
    whole = study("grid") | {
        "matrices": [{"name": "grid", "title": "A grid", "measure": "nothing", "axes": axes}],
        "columns": {"success": {"title": "success", "unit": "share"}},
        "views": [{"kind": "table", "matrix": "grid", "title": "Every cell"},
                  {"kind": "bars", "matrix": "grid", "title": "Success", "value": "success"}],
        "published": [],
        "comparisons": [],
    }  # fmt: skip
    write(folder, whole, cells)
    return folder
