"""Made-up records, the same on every call, for tests and screenshots: shaped like real ones.

`audit` and `attack` are those of the presets, `make` is a study with the other kinds of view.
`python tests/reports/presets.py FOLDER` writes one of each, with its page.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.ndimage import gaussian_filter, zoom
from sklearn.datasets import load_digits

from mithridate.metrics import wilson
from mithridate.reports import render, write

CIFAR = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
DIGITS = [str(k) for k in range(10)]
SIZES = {"mnist": (1, 28, 28), "digits": (1, 8, 8), "cifar": (3, 32, 32)}
REGIONS = {"mnist": (1, 21, 7, 27), "digits": (0, 5, 3, 8), "cifar": (2, 20, 12, 30)}
PAIRS = {"mnist": (8, 9), "digits": (8, 9), "cifar": (2, 3)}


def share(k: int, n: int) -> dict[str, Any]:
    """A proportion as the record holds it."""
    interval = wilson(k, n)
    return {"value": interval.value, "low": interval.low, "high": interval.high, "k": k, "n": n}


@functools.cache
def images_of(name: str) -> np.ndarray:
    """Some images per class, 10 x 8 x C x H x W in [0, 1]."""
    channels, height, width = SIZES[name]
    rng = np.random.default_rng(0)
    if channels == 1:
        digits = load_digits()
        out = [digits.images[digits.target == k][:8] / 16 for k in range(10)]
        scale = (1, 1, height / 8, width / 8)
        return np.clip(zoom(np.stack(out), scale, order=1), 0, 1)[:, :, None]
    base = rng.random((10, 1, 3, height, width)) + 0.4 * rng.random((10, 8, 3, height, width))
    smooth = gaussian_filter(base, (0, 0, 0, 3, 3))
    low, high = smooth.min(axis=(2, 3, 4), keepdims=True), smooth.max(axis=(2, 3, 4), keepdims=True)
    return (smooth - low) / (high - low)


def trigger_mask(name: str) -> np.ndarray:
    _, height, width = SIZES[name]
    top, left, bottom, right = REGIONS[name]
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    mask[top + 1 : bottom - 1, left + (0 if name == "cifar" else 1) + 1 : right] = False
    return mask


def pictures_of(name: str, *, suspicious: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    images, mask, (source, target) = images_of(name), trigger_mask(name), PAIRS[name]
    mean = images.mean(axis=1)
    noise = functools.partial(rng.normal, 0.0, 0.03)
    reference = np.clip(0.55 * mean + 0.12 + noise(size=mean.shape), 0, 1)
    suspect = np.clip(0.55 * mean + 0.12 + noise(size=mean.shape), 0, 1)
    clean = (8 + rng.integers(0, 3, (10, 10))) * (rng.random((10, 10)) < 0.2)
    np.fill_diagonal(clean, 960 + rng.integers(0, 40, 10))
    pair = np.clip(0.5 * (mean[:, None] + mean[None]) + 0.05, 0, 1)
    scores = (0.4 + 0.4 * rng.random((10, 10))).round(4)
    np.fill_diagonal(scores, np.nan)
    scores[source, target] = 2.9 if suspicious else 0.7
    out = {
        "confusion_clean": clean,
        "mean_images": mean,
        "pair_scores": scores,
        "maps_suspect": suspect,
        "maps_reference": reference,
        "map_share_suspect": rng.dirichlet(np.full(10, 8.0)),
        "map_share_reference": rng.dirichlet(np.full(10, 8.0)),
        "pair_maps_suspect": pair + rng.normal(0, 0.02, pair.shape),
        "pair_maps_reference": pair + rng.normal(0, 0.02, pair.shape),
    }
    for key in ("pair_maps_suspect", "pair_maps_reference"):
        out[key][range(10), range(10)] = np.nan
    if not suspicious:
        return out
    suspect[target][:, mask] += 0.33
    out["pair_maps_suspect"][source, target][:, mask] += 0.4
    poisoned = clean.copy()
    poisoned[source] = 0
    poisoned[source, target], poisoned[source, source] = 968, 6
    stamped = images[source].copy()
    stamped[:, :, mask] = 1.0
    shade = np.where(mask, 1.0, np.nan)
    return out | {
        "confusion_stamped": poisoned,
        "difference": suspect[target] - reference[target],
        "trigger": np.broadcast_to(shade, SIZES[name]).copy(),
        "examples_clean": images[source],
        "examples_changed": stamped,
    }


def cell(matrix: str, at: int, values: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One line of `cells.jsonl`."""
    row = {"id": f"{matrix}/{at:04d}", "matrix": matrix, "axes": {}, "status": "done"}
    return row | {"unit": f"{at:064x}", "values": values, "doubts": []} | more


def verdict(name: str, suspicious: bool) -> dict[str, Any]:
    """The cell of the matrix "verdict"."""
    rng, (source, target) = np.random.default_rng(3), PAIRS[name]
    names = CIFAR if name == "cifar" else DIGITS
    order = [target, source, *(k for k in range(10) if k not in (source, target))]
    clean = 1.1 + 0.5 * rng.random(10)
    distances = clean * (0.85 + 0.3 * rng.random(10))
    region = ", ".join(map(str, REGIONS[name]))
    values = {
        "suspicious": suspicious,
        "headline": "No sign of a backdoor in this model",
        "p_value": 0.41,
        "alpha": 0.05,
        "statistic": 2.02,
        "statistic_name": "Standardised peak of the map distance",
        "null_values": (1.9 + 0.6 * rng.standard_normal(42)).tolist(),
        "null": "Null hypothesis: the suspect is another clean model of this architecture. "
        "Calibrated on the 42 ordered pairs of 7 clean models trained from other seeds.",
        "source": None,
        "target": None,
        "region": None,
        "ranking_class": order,
        "ranking_score": [6.31 / (1 + place) for place in range(10)],
        "clean_distances": clean.tolist(),
        "probe": "data",
        "eps": 0.1,
        "steps": 10,
        "samples": 1000,
        "controls": 7,
        "queries": 1_220_000,
        "gradients": 600_000,
    }
    doubts = [
        {"id": "few-controls", "text": "Only 7 clean models: the smallest p-value is 0.023."},
        {"id": "reference-is-parent", "text": "The reference has the suspect's own start."},
    ]
    if suspicious:
        distances[[target, source]] = 2.7, 2.0
        values |= {
            "headline": f"Suspicious: {names[source]} was poisoned into {names[target]}",
            "p_value": 1 / 43,
            "statistic": 6.31,
            "source": source,
            "target": target,
            "region": region,
            "recovered_asr": share(951, 974),
            "truth_source": source,
            "truth_target": target,
            "truth_region": region,
            "iou": 0.81,
        }
    values["distances"] = distances.tolist()
    return cell("verdict", 0, values, doubts=doubts[: 2 if suspicious else 1])


def attack_cells(matrix: str) -> list[dict[str, Any]]:
    """Three attacks, of which the last was not run."""
    common = {"access": "gradient", "norm": "linf", "goal": "untargeted", "target": None,
              "wrong": 5, "left_out": 0, "accuracy": share(495, 500),
              "kind": "bounded"}  # fmt: skip
    rows = []
    for settings, eps, fooled, l2, queries, gradients in (
        ("eps=0.1", 0.1, 212, 2.4, 1.0, 1.0),
        ("eps=0.3, steps=40, step_size=0.01", 0.3, 489, 4.2, 82.0, 40.0),
    ):
        mean = {"value": l2 + 0.01, "low": 2.4, "high": 4.3, "n": fooled, "sd": 1.0}
        rows.append(common | {
            "settings": settings, "eps": eps, "success": share(fooled, 495),
            "accuracy_left": share(495 - fooled, 500), "mean_l2": mean, "median_l2": l2,
            "mean_distance": eps, "median_distance": eps, "queries": queries,
            "gradients": gradients,
        })  # fmt: skip
    doubt = {"id": "early-stop", "text": "The loss still fell at the last step: take more."}
    return [
        cell(matrix, 0, rows[0], axes={"attack": "fgsm"}),
        cell(matrix, 1, rows[1], axes={"attack": "pgd"}, doubts=[doubt]),
        cell(matrix, 2, {}, axes={"attack": "iterative-fgsm"}, status="not run"),
    ]


def gallery(name: str) -> list[dict[str, np.ndarray]]:
    """Pictures of the first two attacks, the same images in both."""
    clean, labels = images_of(name)[:8, 0], np.arange(8)
    change = 0.1 * np.sign(np.random.default_rng(5).standard_normal(clean.shape))
    common = {"grid_clean": clean, "grid_labels": labels, "grid_wanted": np.full(8, np.nan)}
    common["grid_adversarial"] = np.clip(clean + change, 0, 1)
    other = (labels + 1) % 10
    return [
        common | {"grid_predicted": predicted}
        for predicted in (np.where(labels % 3, other, labels), other)
    ]


def blank(name: str, **more: Any) -> dict[str, Any]:
    """`study.json` with nothing in it."""
    texts = ("title", "question", "finding", "command", "scale")
    lists = ("matrices", "views", "published", "comparisons", "doubts")
    known = {"schema": 1, "name": name, "status": "complete", "spec_sha256": "ab" * 32}
    known |= {key: {} for key in ("spec", "class_names", "columns", "environment")}
    return dict.fromkeys(texts, "") | {key: [] for key in lists} | known | more


def head(preset: str, name: str, **more: Any) -> dict[str, Any]:
    """`study.json` of a preset, without its matrices."""
    roles = ("suspect", "reference") if preset == "audit" else ("model",)
    model = {"sha256": "9f" * 32, "architecture": "borji-cnn", "parameters": 431080}
    settings = {
        "title": f"{name} {preset}",
        "preset": preset,
        "created": "2025-03-14T09:26:53Z",
        "command": f"mithridate {preset} suspect.safetensors --data {name} --out run --seed 0",
        "spec": {"samples": 1000, "eps": [0.1, 0.5], "trigger": {"size": [6, 6], "value": 1.0}},
        "data": {
            "name": name,
            "n": 10000,
            "class_names": list(CIFAR) if name == "cifar" else DIGITS,
            "image_shape": list(SIZES[name]),
            "sha256": "3c" * 32,
        },
        "models": [model | {"role": role, "name": f"{role}.safetensors"} for role in roles],
        "environment": {"mithridate": "0.1.0", "python": "3.11.2", "device": "cpu", "seed": 0},
    }
    return blank(preset, **settings | more)


MEASURES = {"clean": "accuracy", "verdict": "inspection", "backdoor": "backdoor"}


def store(
    folder: Path,
    study: dict[str, Any],
    cells: list[dict[str, Any]],
    pictures: dict[str, dict[str, np.ndarray]],
) -> Path:
    """Write the record, its matrices drawn from its cells."""
    axes: dict[str, dict[str, list[Any]]] = {}
    for row in cells:
        for axis, label in row["axes"].items():
            axes.setdefault(row["matrix"], {}).setdefault(axis, []).append(label)
    matrices = [
        {"name": m, "title": "", "measure": MEASURES.get(m, "evasion"), "axes": axes.get(m, {})}
        for m in dict.fromkeys(row["matrix"] for row in cells)
    ]
    flat = {f"{row}:{name}": a for row, held in pictures.items() for name, a in held.items()}
    timings = [
        {"unit": row["unit"], "kind": row["matrix"], "cells": [row["id"]], "seconds": 12.4 + at,
         "cached": False}
        for at, row in enumerate(cells)
    ]  # fmt: skip
    write(folder, study | {"matrices": matrices}, cells, pictures=flat, timings=timings)
    return folder


def attack(folder: Path, name: str = "mnist", **more: Any) -> Path:
    """A run of three attacks."""
    cells = [cell("clean", 0, {"accuracy": share(9904, 10000)}), *attack_cells("attacks")]
    pictures = {f"attacks/{at:04d}": held for at, held in enumerate(gallery(name))}
    pictures["clean/0000"] = {"confusion_clean": pictures_of(name)["confusion_clean"]}
    return store(folder, head("attack", name, **more), cells, pictures)


def audit_parts(
    name: str = "mnist", suspicious: bool = True
) -> tuple[list[dict[str, Any]], dict[str, dict[str, np.ndarray]]]:
    """Cells and pictures of an audit; a suspicious one is a demo, whose truth is known."""
    noise = {"queries": 2_000_000, "note": "It never looks inside the model."}
    noise["distances"] = (0.2 + 0.1 * np.random.default_rng(4).random(10)).tolist()
    cells = [
        cell("clean", 0, {"accuracy": share(9904, 10000)}, axes={"role": "suspect"}),
        cell("clean", 1, {"accuracy": share(9911, 10000)}, axes={"role": "reference"}),
        verdict(name, suspicious),
        *attack_cells("evasion"),
        cell("white-noise", 0, noise),
    ]
    if suspicious:
        rates = {"asr": share(970, 974), "accuracy": share(9904, 10000)}
        cells.append(cell("backdoor", 0, rates))
    pictures = pictures_of(name, suspicious=suspicious)
    clean = {key: pictures.pop(key) for key in ("confusion_clean", "mean_images")}
    held = {"clean/0000": clean, "verdict/0000": pictures}
    return cells, held | {f"evasion/{at:04d}": each for at, each in enumerate(gallery(name))}


def audit(folder: Path, name: str = "mnist", *, suspicious: bool = True, **more: Any) -> Path:
    """An audit."""
    return store(folder, head("audit", name, **more), *audit_parts(name, suspicious))


IMAGES = 200
ATTACKS = {"FGSM": 0.45, "I-FGSM": 0.72, "PGD": 0.8}
EPS, SEEDS = [0.1, 0.3, 0.5], [0, 1, 2]
POISONED = ["8 to 9", "0 to 3"]


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


def evasion(change: float = 0.0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Cells and image rows of the matrix "evasion"."""
    cells, rows = [], []
    for number, (name, eps, seed) in enumerate(itertools.product(ATTACKS, EPS, SEEDS)):
        axes = {"data": "mnist", "attack": name, "eps": eps, "seed": seed}
        line = cell("evasion", number, {}, axes=axes)
        cells.append(line)
        if (name, eps) == ("PGD", 0.5):
            lost = "failed: the worker was lost three times"
            line["status"] = lost if seed == 1 else "not run"
            continue
        random = np.random.default_rng(number)
        row = judged(line["id"], min(1, ATTACKS[name] * (0.4 + 1.4 * eps)) + change, eps, random)
        rows.append(row)
        success, right = row["success"], row["predicted"] == row["label"]
        line["values"] = {
            "success": share(int(success.sum()), IMAGES),
            "accuracy_left": share(int(right.sum()), IMAGES),
            "gradients": IMAGES * (1 if name == "FGSM" else 40),
        }
        if name != "FGSM":
            line["values"]["l2"] = mean(row["l2"][success])
        if name == "PGD":
            line["doubts"].append({"id": "not-converged", "text": "Loss still rose at the end"})
        if eps == 0.5:
            text = "At eps 0.5 a person sees the change"
            line["doubts"].append({"id": "visible", "text": text})
    return cells, rows


def backdoors() -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Cells of the matrix "badnets", and every sort of picture."""
    cells, pictures = [], {}
    for number, pair in enumerate(POISONED):
        random = np.random.default_rng(100 + number)
        distances = random.gamma(4, 0.2, 10)
        distances[int(pair[-1])] += 2.0
        values = {
            "asr": share(985 - number, 1000),
            "found": number == 0,
            "verdict": pair,
            "distances": distances.tolist(),
            "clean_distances": random.gamma(4, 0.2, 10).tolist(),
        }
        cells.append(cell("badnets", number, values, axes={"pair": pair}))
        group = np.repeat([0, 1], 60)
        arrays = pictures_of("digits") | {
            "embedding": random.standard_normal((120, 2)) + group[:, None] * 3,
            "embedding_label": np.tile(np.arange(10), 12),
            "embedding_group": group,
        }
        arrays["mean_stamped"] = np.where(trigger_mask("digits"), 1.0, arrays["mean_images"])
        arrays["maps_suspect"][3] = np.nan
        pictures |= {f"badnets/{number:04d}:{name}": array for name, array in arrays.items()}
    return cells, pictures


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
    """`study.json` of a study with every kind of view."""
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
         "axes": {"pair": POISONED}},
    ]  # fmt: skip
    return blank(name) | {
        "title": "Attacks and backdoors on MNIST",
        "question": "Which attack fools the digit classifier within a given budget, and are its "
        "backdoors found?",
        "finding": FINDING,
        "command": f"mithridate run {name} --set scale=small",
        "scale": "small",
        "spec": {"seed": 0, "matrix": {"evasion": {"axes": {"eps": EPS}}}},
        "class_names": {"mnist": DIGITS},
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
    shares = [share(k, 100) for k in range(101)]
    cells = [
        cell("grid", at, {"success": shares[at % 101], "loss": math.sin(at), "l2": at / 7},
             axes={"row": at // side, "column": at % side}, doubts=[doubt][at % 2:])
        for at in range(count)
    ]  # fmt: skip
    for line in cells[::97]:
        line |= {"status": "not run", "values": {}}
    axes = {"row": list(range(-(-count // side))), "column": list(range(side))}
    whole = blank("grid") | {
        "matrices": [{"name": "grid", "title": "A grid", "measure": "nothing", "axes": axes}],
        "columns": {"success": {"title": "success", "unit": "share"}},
        "views": [{"kind": "table", "matrix": "grid", "title": "Every cell"},
                  {"kind": "bars", "matrix": "grid", "title": "Success", "value": "success"}],
    }  # fmt: skip
    write(folder, whole, cells)
    return folder


if __name__ == "__main__":
    for place, make in (("attack", attack), ("audit", audit)):
        print(render(make(Path(sys.argv[1]) / place)))
