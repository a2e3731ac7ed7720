"""Made-up runs for tests and screenshots: shaped like real ones, found by no model."""

from __future__ import annotations

import functools
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, zoom
from sklearn.datasets import load_digits

from mithridate.reports import Record, write

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
def pictures(name: str) -> np.ndarray:
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


def arrays(name: str, *, suspicious: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    images, mask, (source, target) = pictures(name), trigger_mask(name), PAIRS[name]
    mean = images.mean(axis=1)
    noise = functools.partial(rng.normal, 0.0, 0.03)
    reference = np.clip(0.55 * mean + 0.12 + noise(size=mean.shape), 0, 1)
    suspect = np.clip(0.55 * mean + 0.12 + noise(size=mean.shape), 0, 1)
    clean = (8 + rng.integers(0, 3, (10, 10))) * (rng.random((10, 10)) < 0.2)
    np.fill_diagonal(clean, 960 + rng.integers(0, 40, 10))
    pair = np.clip(0.5 * (mean[:, None] + mean[None]) + 0.05, 0, 1)
    out = {
        "confusion_clean": clean,
        "mean_images": mean,
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
        "confusion_poisoned": poisoned,
        "difference": suspect[target] - reference[target],
        "trigger": np.broadcast_to(shade, SIZES[name]).copy(),
        "examples_clean": images[source],
        "examples_stamped": stamped,
    }


def distances(name: str, suspicious: bool) -> list[dict[str, Any]]:
    rng, (source, target) = np.random.default_rng(2), PAIRS[name]
    out = []
    for probe in ("blank", "noise", "data"):
        for eps in (0.1, 0.5):
            clean = 1.1 + 0.5 * rng.random(10)
            suspect = clean * (0.85 + 0.3 * rng.random(10))
            if suspicious:
                suspect[target], suspect[source] = 2.6 + eps, 1.9 + eps
            samples = 1 if probe == "blank" else 1000
            row = {"probe": probe, "eps": eps, "steps": 10, "samples": samples}
            out.append(row | {"suspect": suspect.tolist(), "clean": clean.tolist()})
    return out


def verdict(name: str, suspicious: bool) -> dict[str, Any]:
    rng, (source, target) = np.random.default_rng(3), PAIRS[name]
    names = CIFAR if name == "cifar" else [str(k) for k in range(10)]
    found = f"Suspicious: {names[source]} was poisoned into {names[target]}"
    return {
        "suspicious": suspicious,
        "source": source if suspicious else None,
        "target": target if suspicious else None,
        "p_value": 1 / 43 if suspicious else 0.41,
        "alpha": 0.05,
        "region": REGIONS[name] if suspicious else None,
        "headline": found if suspicious else "No sign of a backdoor in this model",
        "null": "Null hypothesis: the suspect is another clean model of this architecture. "
        "Calibrated on the 42 ordered pairs of 7 clean models trained from other seeds; the "
        "p-value is (1 + pairs at least as extreme) / (1 + pairs).",
        "statistic": {
            "name": "Standardised peak of the map distance",
            "value": 6.31 if suspicious else 2.02,
            "null_values": (1.9 + 0.6 * rng.standard_normal(42)).tolist(),
        },
        "doubts": [
            {
                "id": "few-controls",
                "text": "Only 7 clean control models: the smallest possible p-value is 0.023.",
            },
            {
                "id": "reference-is-parent",
                "text": "The reference has the suspect's own starting weights, which a user "
                "seldom has; with another seed the distances are noisier.",
            },
        ][: 2 if suspicious else 1],
    }


def attack_rows() -> list[dict[str, Any]]:
    cost = {"queries": 41000, "gradients": 20000, "seconds": 12.4}
    settings = {"eps": 0.3, "norm": "linf", "steps": 40, "step_size": 0.01, "restarts": 1}
    doubt = {
        "id": "early-stop",
        "text": "The loss still fell at the last step: take more.",
    }
    first = {
        "name": "fgsm", "settings": {"eps": 0.1}, "n": 500, "success": wilson(212, 495),
        "accuracy_left": wilson(283, 500), "mean_l2": 2.49, "mean_linf": 0.1, "doubts": [],
    }  # fmt: skip
    second = {
        "name": "pgd", "settings": settings, "n": 500, "success": wilson(489, 495),
        "accuracy_left": wilson(6, 500), "mean_l2": 4.21, "mean_linf": 0.3, "doubts": [doubt],
    }  # fmt: skip
    third = {
        "name": "iterative-fgsm", "settings": {}, "n": 0, "success": None,
        "accuracy_left": None, "mean_l2": None, "mean_linf": None, "doubts": [],
    }  # fmt: skip
    nothing = {"queries": 0, "gradients": 0, "seconds": 0.0}
    return [first | cost | {"seconds": 0.41}, second | cost, third | nothing]


def model(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "sha256": "9f" * 32,
        "architecture": "borji-cnn",
        "parameters": 431080,
        "clean_accuracy": wilson(9904, 10000),
    }


def raw(name: str = "mnist", *, kind: str = "audit", suspicious: bool = True) -> dict[str, Any]:
    """The record as it lies in `record.json`."""
    rng, (source, target) = np.random.default_rng(4), PAIRS[name]
    audit = kind == "audit"
    pairs = (0.4 + 0.4 * rng.random((10, 10))).round(4).tolist()
    for k in range(10):
        pairs[k][k] = None
    pairs[source][target] = 2.9 if suspicious else 0.7
    order = [target, source, *(k for k in range(10) if k not in (source, target))]
    classes = list(CIFAR) if name == "cifar" else [str(k) for k in range(10)]
    truth = {"source": source, "target": target, "region": list(REGIONS[name]), "iou": 0.81}
    rates = {"clean_accuracy": wilson(9904, 10000), "asr": wilson(970, 974)}
    rates |= {"recovered_asr": wilson(951, 974), "truth": truth}
    noise = {"queries": 2_000_000, "seconds": 192.0, "note": "It never looks inside the model."}
    noise |= {"distances": (0.2 + 0.1 * rng.random(10)).tolist()}
    settings = {"probe": "noise", "samples": 1000, "steps": 10, "eps": [0.1, 0.5, 0.9]}
    environment = {"mithridate": "0.1.0", "torch": "2.13.0", "python": "3.11.2", "device": "cpu"}
    return {
        "schema": 1,
        "kind": kind,
        "title": f"{name} {kind}",
        "created": datetime(2025, 3, 14, 9, 26, 53).isoformat() + "+00:00",
        "command": f"mithridate {kind} suspect.safetensors --data {name} "
        "--reference clean.safetensors --out run --seed 0",
        "status": "complete",
        "verdict": verdict(name, suspicious) if audit else None,
        "model": model("suspect.safetensors"),
        "reference": model("clean.safetensors") if audit else None,
        "controls": 7 if audit else 0,
        "data": {
            "name": name,
            "n": 10000,
            "class_names": classes,
            "image_shape": list(SIZES[name]),
            "sha256": "3c" * 32,
        },
        "ranking": [
            {"class": k, "score": 6.31 / (1 + place), "distance": 3.1 / (1 + 0.2 * place)}
            for place, k in enumerate(order)
        ] if audit else [],
        "distances": distances(name, suspicious) if audit else [],
        "pairs": pairs if audit else None,
        "attacks": attack_rows(),
        "backdoor": rates if audit and suspicious else None,
        "white_noise": noise if audit else None,
        "cost": {"queries": 1_220_000, "gradients": 600_000, "seconds": 48.6},
        "settings": settings | {"trigger": {"size": [6, 6], "value": 1.0}},
        "environment": environment | {"revision": "8a55b97 (clean)", "seed": 0},
    }  # fmt: skip


def attack_arrays(name: str) -> dict[str, np.ndarray]:
    clean = pictures(name)[:, 0]
    change = 0.1 * np.sign(np.random.default_rng(5).standard_normal(clean.shape))
    adversarial = np.clip(clean + change, 0, 1)
    return {
        "attack_clean": clean,
        "attack_adversarial": adversarial,
        "attack_difference": adversarial - clean,
        **grid(clean[:8], adversarial[:8]),
        "confusion_clean": arrays(name)["confusion_clean"],
    }


def grid(clean: np.ndarray, adversarial: np.ndarray) -> dict[str, np.ndarray]:
    """Three attacks, of which the last was not run."""
    gone, labels = np.full_like(clean, np.nan), np.arange(len(clean))
    said = np.where(labels % 3, (labels + 1) % 10, labels)
    return {
        "grid_clean": clean,
        "grid_labels": labels,
        "grid_wanted": np.full(len(clean), np.nan),
        "grid_adversarial": np.stack([adversarial, adversarial, gone]),
        "grid_predicted": np.stack([said, (labels + 1) % 10, labels * np.nan]),
    }


def make(
    folder: Path, name: str = "mnist", *, kind: str = "audit", suspicious: bool = True
) -> Path:
    """Store a whole made-up run; returns its folder."""
    record = Record.model_validate(raw(name, kind=kind, suspicious=suspicious))
    held = arrays(name, suspicious=suspicious) if kind == "audit" else attack_arrays(name)
    write(folder, record, held)
    return folder
