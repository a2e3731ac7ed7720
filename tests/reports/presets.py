"""Made-up records of the presets, for tests and screenshots: shaped like real ones, of no model.

`python tests/reports/presets.py FOLDER` writes one of each, with its page.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, zoom
from sklearn.datasets import load_digits

from mithridate.reports import render, write

CIFAR = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
SIZES = {"mnist": (1, 28, 28), "digits": (1, 8, 8), "cifar": (3, 32, 32)}
REGIONS = {"mnist": (1, 21, 7, 27), "digits": (0, 5, 3, 8), "cifar": (2, 20, 12, 30)}
PAIRS = {"mnist": (8, 9), "digits": (8, 9), "cifar": (2, 3)}


def wilson(k: int, n: int) -> dict[str, float]:
    p, z = k / n, 1.959963985
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return {"value": p, "low": max(0.0, low), "high": min(1.0, high), "k": k, "n": n}


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
    names = CIFAR if name == "cifar" else [str(k) for k in range(10)]
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
            "recovered_asr": wilson(951, 974),
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
              "wrong": 5, "left_out": 0, "accuracy": wilson(495, 500)}  # fmt: skip
    mean = {"low": 2.4, "high": 4.3, "sd": 1.0}
    first = common | {
        "kind": "bounded", "settings": "eps=0.1", "eps": 0.1, "success": wilson(212, 495),
        "accuracy_left": wilson(283, 500), "mean_l2": mean | {"value": 2.49, "n": 212},
        "median_l2": 2.4, "mean_distance": 0.1, "median_distance": 0.1, "queries": 1.0,
        "gradients": 1.0,
    }  # fmt: skip
    second = common | {
        "kind": "bounded", "settings": "eps=0.3, steps=40, step_size=0.01", "eps": 0.3,
        "success": wilson(489, 495), "accuracy_left": wilson(6, 500),
        "mean_l2": mean | {"value": 4.21, "n": 489}, "median_l2": 4.2, "mean_distance": 0.3,
        "median_distance": 0.3, "queries": 82.0, "gradients": 40.0,
    }  # fmt: skip
    doubt = {"id": "early-stop", "text": "The loss still fell at the last step: take more."}
    return [
        cell(matrix, 0, first, axes={"attack": "fgsm"}),
        cell(matrix, 1, second, axes={"attack": "pgd"}, doubts=[doubt]),
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


def study(preset: str, name: str, **more: Any) -> dict[str, Any]:
    """`study.json` without its matrices."""
    environment = {"mithridate": "0.1.0", "torch": "2.13.0", "python": "3.11.2", "device": "cpu"}
    roles = ("suspect", "reference") if preset == "audit" else ("model",)
    return {
        "schema": 1,
        "name": preset,
        "title": f"{name} {preset}",
        "preset": preset,
        "created": "2025-03-14T09:26:53Z",
        "question": "",
        "finding": "",
        "command": f"mithridate {preset} suspect.safetensors --data {name} --out run --seed 0",
        "scale": "",
        "status": "complete",
        "spec": {"samples": 1000, "eps": [0.1, 0.5], "trigger": {"size": [6, 6], "value": 1.0}},
        "spec_sha256": "ab" * 32,
        "class_names": {},
        "data": {
            "name": name,
            "n": 10000,
            "class_names": list(CIFAR) if name == "cifar" else [str(k) for k in range(10)],
            "image_shape": list(SIZES[name]),
            "sha256": "3c" * 32,
        },
        "models": [
            {"role": role, "name": f"{role}.safetensors", "sha256": "9f" * 32,
             "architecture": "borji-cnn", "parameters": 431080}
            for role in roles
        ],
        "columns": {},
        "views": [],
        "published": [],
        "comparisons": [],
        "doubts": [],
        "environment": environment | {"revision": "8a55b97 (clean)", "seed": 0},
    } | more  # fmt: skip


MEASURES = {"clean": "accuracy", "verdict": "inspection", "backdoor": "backdoor"}


def store(
    folder: Path,
    head: dict[str, Any],
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
    write(folder, head | {"matrices": matrices}, cells, pictures=flat, timings=timings)
    return folder


def attack(folder: Path, name: str = "mnist", **more: Any) -> Path:
    """A run of three attacks."""
    cells = [cell("clean", 0, {"accuracy": wilson(9904, 10000)}), *attack_cells("attacks")]
    pictures = {f"attacks/{at:04d}": held for at, held in enumerate(gallery(name))}
    pictures["clean/0000"] = {"confusion_clean": pictures_of(name)["confusion_clean"]}
    return store(folder, study("attack", name, **more), cells, pictures)


def audit_parts(
    name: str = "mnist", suspicious: bool = True
) -> tuple[list[dict[str, Any]], dict[str, dict[str, np.ndarray]]]:
    """Cells and pictures of an audit; a suspicious one is a demo, whose truth is known."""
    noise = {"queries": 2_000_000, "note": "It never looks inside the model."}
    noise["distances"] = (0.2 + 0.1 * np.random.default_rng(4).random(10)).tolist()
    cells = [
        cell("clean", 0, {"accuracy": wilson(9904, 10000)}, axes={"role": "suspect"}),
        cell("clean", 1, {"accuracy": wilson(9911, 10000)}, axes={"role": "reference"}),
        verdict(name, suspicious),
        *attack_cells("evasion"),
        cell("white-noise", 0, noise),
    ]
    if suspicious:
        rates = {"asr": wilson(970, 974), "accuracy": wilson(9904, 10000)}
        cells.append(cell("backdoor", 0, rates))
    pictures = pictures_of(name, suspicious=suspicious)
    clean = {key: pictures.pop(key) for key in ("confusion_clean", "mean_images")}
    held = {"clean/0000": clean, "verdict/0000": pictures}
    return cells, held | {f"evasion/{at:04d}": each for at, each in enumerate(gallery(name))}


def audit(folder: Path, name: str = "mnist", *, suspicious: bool = True, **more: Any) -> Path:
    """An audit."""
    return store(folder, study("audit", name, **more), *audit_parts(name, suspicious))


if __name__ == "__main__":
    for place, make in (("attack", attack), ("audit", audit)):
        print(render(make(Path(sys.argv[1]) / place)))
