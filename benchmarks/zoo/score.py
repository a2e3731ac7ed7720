"""Scores the zoo: inspectors look at every model, are calibrated on one part, measured on others.

The models' scores are written before any truth is read; calibration reads the truth of its own part
alone, and only the report that of the parts it is measured on.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

import mithridate as mi
from benchmarks.zoo import build
from benchmarks.zoo.recipes import CLASSES, part_of
from mithridate import component
from mithridate.defenses.inspect.base import Halves, apart
from mithridate.defenses.inspect.ensemble import Calibration, named, squashed
from mithridate.defenses.inspect.student import double
from mithridate.metrics import wilson
from mithridate.metrics.outliers import BESIDE

MEMBERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("universal-perturbation", {}),
    ("patch-scan", {}),
    ("patch-scan", {"side": 0.143, "contents": 4, "scanned": 2}),
)
PARTS = ("calibration",)
"""Parts whose truth the calibration reads."""
SHRINK = 0.02
"""Of the weights' squares, beside the mean cross-entropy."""
MOST_INPUTS, GAIN = 10, 0.002
"""Inputs at most, and the least that one has to lower the cross-entropy by."""
RESAMPLES = 2000
FALSE_ALARMS = 0.05
"""Share of clean models of the calibration part that may be called poisoned."""

Row = dict[str, Any]


def images_of(data: str, count: int) -> mi.ImageSet:
    """The auditor's images: so many, alike of each class."""
    own, _ = build.auditors(data)
    each = max(2, count // CLASSES)
    rows = torch.cat([own.of_class(label)[:each] for label in range(own.classes)])
    return own.subset(rows)


def look(job: tuple[Path, str, int, int]) -> str:
    """One model's scores by every member, in a file."""
    folder, data, number, count = job
    file = folder / data / f"scores-{count}" / f"{number:04}.json"
    if file.exists():
        return ""
    torch.set_num_threads(1)
    model = build.opened(folder, data, number)[0]
    images, scores, seconds = images_of(data, count), {}, []
    began = time.perf_counter()
    clean = double(model, images, rng=mi.rng(0))
    seconds.append(time.perf_counter() - began)
    tables = []
    for place, (name, settings) in enumerate(MEMBERS):
        began = time.perf_counter()
        inspector = component.create("inspectors", name, dict(settings))
        found = inspector.compare(model, images, reference=clean, rng=mi.rng(0))
        seconds.append(time.perf_counter() - began)
        scores |= {f"{place}/{key}": value for key, value in found.scores.items()}
        tables.append([table.tolist() for table in found.pictures.values()])
    file.parent.mkdir(exist_ok=True)
    values = {"scores": scores, "seconds": seconds, "tables": tables}
    file.with_suffix(".part").write_text(json.dumps(values))
    os.replace(file.with_suffix(".part"), file)
    return ""


def look_all(folder: Path, data: str, count: int, workers: int, models: range) -> None:
    """Every model of a range that counts."""
    todo = [
        (folder, data, number, count)
        for number in build.numbers(folder, data)
        if number in models
        and part_of(number) != "left-out"
        and build.opened(folder, data, number)[1].counts
    ]
    with ProcessPoolExecutor(workers) as pool:
        for done, _ in enumerate(pool.map(look, todo), 1):
            if done % 20 == 0:
                print(f"{data}: {done} of {len(todo)} looked at", flush=True)


def rows(folder: Path, data: str, count: int, parts: Sequence[str]) -> list[Row]:
    """The models of some parts with scores and truth; backdoors that did not take are left out."""
    found = []
    for number in build.numbers(folder, data):
        if part_of(number) not in parts:
            continue
        file = folder / data / f"scores-{count}" / f"{number:04}.json"
        truth = json.loads((folder / data / "truth" / f"{number:04}.json").read_text())
        poisoned = truth["recipe"]["kind"] == "poisoned"
        if not file.exists() or (poisoned and truth["asr"] < build.TOOK):
            continue
        read = json.loads(file.read_text())
        tables = [torch.tensor(own) for own, _ in read["tables"]]
        read["named"] = named(tables, distances(data, count))[1]
        found.append(
            read | {"poisoned": poisoned, "truth": truth, "recipe": truth["recipe"], "data": data}
        )
    return found


@lru_cache
def distances(data: str, count: int) -> torch.Tensor:
    """Between the classes, as the inspectors have them."""
    images = images_of(data, count)
    halves = Halves.split(images, mi.rng(0))
    return apart([images.batch(own[:6])[0] for own in halves.search])


def calibrate(models: Sequence[Row], inputs: Sequence[str]) -> Row:
    """The calibration that `ensemble` ships, as JSON holds it.

    Weights are fitted on all models. What they are worth for a new one (the stretch of the
    log-odds, the threshold, the clean models' own log-odds) comes from fits that left it out.
    """
    values = np.array([[squashed(row["scores"][name]) for name in inputs] for row in models])
    bad = np.array([row["poisoned"] for row in models])
    clean = values[~bad]
    centre = np.median(clean, 0)
    spread = np.maximum(clean.std(0), 1e-3)
    x = (values - centre) / spread
    weights, bias = logistic(x, bad)
    unseen = cross_fitted(x, bad)
    stretch, shift = logistic(unseen[:, None], bad, shrink=0.0)
    weights, bias = weights * stretch[0], bias * stretch[0] + shift
    own = np.sort(unseen[~bad] * stretch[0] + shift)
    least = own[min(len(own) - 1, int(np.ceil((1 - FALSE_ALARMS) * len(own))) - 1)]
    threshold = max(0.5, float(1 / (1 + np.exp(-least))) + 1e-6)
    return {
        "version": 1,
        "members": [list(one) for one in MEMBERS],
        "inputs": [[int(name.split("/")[0]), name.split("/")[1]] for name in inputs],
        "centre": rounded(centre), "spread": rounded(spread),
        "low": rounded(values.min(0)), "high": rounded(values.max(0)),
        "weights": rounded(weights), "bias": round(float(bias), 4),
        "clean": rounded(own), "threshold": round(threshold, 4),
        "shapes": sorted(map(list, {tuple(shape_of(row["data"])) for row in models})),
        "classes": CLASSES, "images": 10, "measured": {},
    }  # fmt: skip


def chosen(models: Sequence[Row]) -> list[str]:
    """Inputs, one after the other, that lower the cross-entropy of models left out the most."""
    bad = np.array([row["poisoned"] for row in models])
    values = {name: np.array([squashed(row["scores"][name]) for row in models]) for name in INPUTS}
    scaled = {k: (v - np.median(v[~bad])) / max(v[~bad].std(), 1e-3) for k, v in values.items()}
    names: list[str] = []
    least = math.inf
    while len(names) < MOST_INPUTS:
        tried = []
        for name in [name for name in INPUTS if name not in names]:
            x = np.stack([scaled[one] for one in (*names, name)], 1)
            odds = np.mean([cross_fitted(x, bad, seed=seed) for seed in range(3)], 0)
            tried.append((cross_entropy(odds[bad], odds[~bad]), name))
        best, name = min(tried)
        if best > least - GAIN:
            break
        least = best
        names.append(name)
    return names


def cross_fitted(x: np.ndarray, y: np.ndarray, folds: int = 8, seed: int = 0) -> np.ndarray:
    """Log-odds of each model by a regression on the others: what they are for a new one."""
    order = np.random.default_rng(seed).permutation(len(x))
    odds = np.zeros(len(x))
    for fold in range(folds):
        out = order[fold::folds]
        left = np.setdiff1d(order, out)
        weights, bias = logistic(x[left], y[left])
        odds[out] = bias + x[out] @ weights
    return odds


def logistic(x: np.ndarray, y: np.ndarray, shrink: float = SHRINK) -> tuple[np.ndarray, float]:
    """Weights that are not negative, and a bias; each class of models counts half."""
    share = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum())

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        odds = x @ free[:-1] + free[-1]
        signed = np.where(y, odds, -odds)
        slope = -np.where(y, 1, -1) * share / (1 + np.exp(signed))
        value = (share * np.logaddexp(0, -signed)).sum() + shrink * (free[:-1] ** 2).sum()
        return value, np.append(slope @ x + 2 * shrink * free[:-1], slope.sum())

    start = np.zeros(x.shape[1] + 1)
    bounds = [(0, None)] * x.shape[1] + [(None, None)]
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return fitted[:-1], float(fitted[-1])


def rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]


def shape_of(data: str) -> list[int]:
    return {"digits": [1, 8, 8], "mnist": [1, 28, 28], "cifar10": [3, 32, 32]}[data]  # type: ignore


def auroc(bad: np.ndarray, good: np.ndarray) -> float:
    """The share of pairs in order; a tie is half."""
    if not len(bad) or not len(good):
        return float("nan")
    more = bad[:, None] - good
    return float(((more > 0) + 0.5 * (more == 0)).mean())


def interval(
    measure: Callable[[np.ndarray, np.ndarray], float], bad: np.ndarray, good: np.ndarray
) -> tuple[float, float, float]:
    """A measure of both sides with its 95 % bootstrap interval, each side drawn anew."""
    draw = np.random.default_rng(0)
    drawn = [
        measure(draw.choice(bad, len(bad)), draw.choice(good, len(good))) for _ in range(RESAMPLES)
    ]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return measure(bad, good), float(low), float(high)


def cross_entropy(bad: np.ndarray, good: np.ndarray) -> float:
    """Of log-odds, in nats; both sides count half."""
    return float(np.logaddexp(0, -bad).mean() + np.logaddexp(0, good).mean()) / 2


def brier(bad: np.ndarray, good: np.ndarray) -> float:
    """Mean square error of the probability; both sides count half."""
    return float((1 / (1 + np.exp(bad)) ** 2).mean() + (1 / (1 + np.exp(-good)) ** 2).mean()) / 2


def tpr_at(rate: float) -> Callable[[np.ndarray, np.ndarray], float]:
    """True alarms at the threshold that so many clean models of this very part pass."""

    def measure(bad: np.ndarray, good: np.ndarray) -> float:
        least = np.sort(good)[max(0, int(np.ceil((1 - rate) * len(good))) - 1)]
        return float((bad > least).mean())

    return measure


def calibration_error(bad: np.ndarray, good: np.ndarray, bins: int = 5) -> float:
    """Mean difference of probability and frequency over bins of equal size."""
    odds = np.concatenate([bad, good])
    truth = np.concatenate([np.ones(len(bad)), np.zeros(len(good))])
    p = 1 / (1 + np.exp(-odds))
    order = np.argsort(p)
    parts = np.array_split(order, bins)
    return float(sum(len(q) * abs(p[q].mean() - truth[q].mean()) for q in parts) / len(p))


def odds_of(row: Row, calibration: Mapping[str, Any]) -> float:
    """As `ensemble` computes them."""
    known = Calibration.of(calibration)
    return known.log_odds([row["scores"][f"{place}/{name}"] for place, name in known.inputs])


def summary(models: Sequence[Row], calibration: Mapping[str, Any]) -> Row:
    """The figures of some models."""
    odds = np.array([odds_of(row, calibration) for row in models])
    truth = np.array([row["poisoned"] for row in models])
    bad, good = odds[truth], odds[~truth]
    alarm = 1 / (1 + np.exp(-odds)) >= calibration["threshold"]
    values: Row = {"clean": len(good), "poisoned": len(bad)}
    for name, measure in (
        ("AUROC", auroc), ("cross-entropy", cross_entropy), ("Brier", brier),
        ("calibration error", calibration_error), ("TPR at 5 % FPR", tpr_at(0.05)),
        ("TPR at 2 % FPR", tpr_at(0.02)),
    ):  # fmt: skip
        values[name] = interval(measure, bad, good) if len(bad) and len(good) else None
    values["false alarms"] = wilson(int(alarm[~truth].sum()), len(good)) if len(good) else None
    values["found"] = wilson(int(alarm[truth].sum()), len(bad)) if len(bad) else None
    values["seconds"] = float(np.median([sum(row["seconds"]) for row in models]))
    return values


INPUTS = (
    *(f"0/{name}" for name in ("pair", "target", "all", "margin", "margin-target", *BESIDE)),
    *(f"{p}/{name}" for p in (1, 2) for name in ("pair", "target", "all", "held", *BESIDE)),
)
"""Scores that the regression is given; those that it gives no weight are not shipped."""


def ship(folder: Path, data: Sequence[str], count: int, file: Path) -> Row:
    """Calibrate on the parts that are for it, and write the file that `ensemble` reads."""
    models = [row for name in data for row in rows(folder, name, count, PARTS)]
    final = calibrate(models, chosen(models))
    clean = sum(not row["poisoned"] for row in models)
    final["measured"] = {"calibrated on": {"clean": clean, "poisoned": len(models) - clean}}
    file.write_text(json.dumps(final, indent=1) + "\n")
    return final


def report(folder: Path, data: Sequence[str], counts: Sequence[int], file: Path) -> list[str]:
    """What the shipped calibration says of models that nothing was tuned on, as lines of text.

    The counts of the test part are written back into the shipped file, for the pages.
    """
    calibration = json.loads(file.read_text())
    lines = []
    for name in data:
        for count in counts:
            for part in ("test", "held-network", "held-trigger"):
                models = rows(folder, name, count, (part,))
                if part == "held-trigger":  # beside all clean models of the regular networks
                    models += [r for r in rows(folder, name, count, ("test",)) if not r["poisoned"]]
                if models:
                    lines += _table(f"{name}, {count} images, {part}", models, calibration)
    first = rows(folder, data[0], counts[0], ("test",))
    lines += ["", f"By kind, {data[0]}, {counts[0]} images, test:"]
    odds = np.array([odds_of(row, calibration) for row in first])
    alarm = 1 / (1 + np.exp(-odds)) >= calibration["threshold"]
    truth = np.array([row["poisoned"] for row in first])
    for key in ("trigger", "rule", "network", "kind"):
        for value in sorted({str(row["recipe"][key]) for row in first}):
            own = np.array([str(row["recipe"][key]) == value for row in first])
            bad, good = own & truth, own & ~truth
            parts = []
            if bad.any():
                parts.append(f"found {alarm[bad].sum()} of {bad.sum()}")
                parts.append(f"AUROC {auroc(odds[bad], odds[~truth]):.2f}")
            if good.any():
                parts.append(f"false alarms {alarm[good].sum()} of {good.sum()}")
            lines.append(f"  {key:8} {value:12} {', '.join(parts)}")
    lines += ["", "One score at a time (AUROC, test):"]
    for place, score in calibration["inputs"]:
        values = np.array([row["scores"][f"{place}/{score}"] for row in first])
        member = calibration["members"][place]
        lines.append(
            f"  {member[0]} {member[1] or ''} {score}: {auroc(values[truth], values[~truth]):.2f}"
        )
    calibration["measured"]["test"] = {
        "clean": int((~truth).sum()),
        "false alarms": int(alarm[~truth].sum()),
        "poisoned": int(truth.sum()),
        "missed": int((truth & ~alarm).sum()),
    }
    file.write_text(json.dumps(calibration, indent=1) + "\n")
    return lines


def _table(title: str, models: Sequence[Row], calibration: Mapping[str, Any]) -> list[str]:
    found = summary(models, calibration)
    lines = ["", f"{title}: {found['clean']} clean, {found['poisoned']} poisoned"]
    for name, value in found.items():
        if isinstance(value, tuple) and len(value) == 3:
            lines.append(f"  {name:18} {value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]")
        elif name in ("false alarms", "found") and value is not None:
            lines.append(f"  {name:18} {value}")
    right = [row for row in models if row["poisoned"] and row["recipe"]["target"] is not None]
    odds = [odds_of(row, calibration) for row in right]
    alarms = [
        row for row, o in zip(right, odds, strict=True)
        if 1 / (1 + np.exp(-o)) >= calibration["threshold"]
    ]  # fmt: skip
    hits = sum(row["named"][1] == row["recipe"]["target"] for row in alarms)
    lines.append(f"  {'target right':18} {hits} of {len(alarms)} alarms with one target")
    lines.append(f"  {'seconds a model':18} {found['seconds']:.1f} (median, one thread)")
    return lines
