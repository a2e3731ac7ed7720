"""Scores the zoo: inspectors look at every model, are calibrated on one part, measured on others.

The models' scores are written before any truth is read; calibration reads the truth of its own part
alone, and only the report that of the parts it is measured on.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize

import mithridate as mi
from benchmarks.zoo import build
from benchmarks.zoo.networks import NETWORKS
from benchmarks.zoo.recipes import CLASSES, Recipe, part_of, trigger_of
from mithridate.defenses.inspect import Ensemble
from mithridate.defenses.inspect.base import Comparison
from mithridate.defenses.inspect.ensemble import (
    FAMILIES,
    MEMBERS,
    all_scores,
    by_search,
    cells,
    chosen,
    draws_of,
    family_of,
    largest_of,
    layers,
    likest,
    part,
    recognised,
    squashed,
    together,
)
from mithridate.metrics import wilson
from mithridate.metrics.outliers import pointed_at
from mithridate.rng import child

PARTS = ("calibration",)
"""Parts whose truth the calibration reads."""
TESTS = ("test", "drawn", "fresh")
"""Parts that pages name the counts of."""
FLOOR = 0.1
"""Of deviations over clean models, of squashed scores and of searches."""
DARK = 0.05
"""Of the deviation of a cell over images: some are always black."""
LEAST = 0.8
"""Accuracy on the auditor's images below which a model is given no verdict."""
LOCAL = ("pixel", "patch", "inserted")
"""Triggers that have a place."""
RESAMPLES = 2000
ALARM = 0.75
"""Probability from which on there is an alarm; about 2 % of clean calibration models pass it."""

Row = dict[str, Any]


def images_of(data: str, count: int, number: int) -> mi.ImageSet:
    """The auditor's images: so many, alike of each class, and others for each model.

    With the same images for all, what these make of any model would be no surprise in the zoo, and
    one to whoever brings his own.
    """
    own, _ = build.auditors(data)
    each, draw = max(2, count // CLASSES), child(0, "zoo", data, "images", number)
    shuffled = [own.of_class(label) for label in range(own.classes)]
    rows = [of[torch.randperm(len(of), generator=draw)[:each]] for of in shuffled]
    return own.subset(torch.cat(rows))


def look(job: tuple[Path, str, int, int]) -> str:
    """What the ensemble computes of one model, in a file."""
    folder, data, number, count = job
    file = folder / data / f"looks-{count}" / f"{number:04}.safetensors"
    if file.exists():
        return ""
    torch.set_num_threads(1)
    model, images = build.opened(folder, data, number)[0], images_of(data, count, number)
    began = time.perf_counter()
    looks = {k: v.contiguous() for k, v in Ensemble().look(model, images, rng=mi.rng(0)).items()}
    looks["seconds"] = torch.tensor([time.perf_counter() - began])
    file.parent.mkdir(exist_ok=True)
    save_file(looks, file.with_suffix(".part"))
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
        file = folder / data / f"looks-{count}" / f"{number:04}.safetensors"
        if part_of(number) not in parts or not file.exists():
            continue
        model, built = build.opened(folder, data, number)
        if not built.counts:
            continue
        looks, images = load_file(file), images_of(data, count, number)
        seconds = float(looks.pop("seconds"))
        found.append(
            {
                "poisoned": built.recipe.poisoned, "recipe": built.recipe, "data": data,
                "family": family_of(layers(model, images.image_shape)),
                "model": model, "images": images, "looks": looks,
                "parts": Ensemble().parts(model, images, looks, rng=mi.rng(0)),
                "right": recognised(part(looks, draws_of(looks) * (len(MEMBERS) - 1))["before"]),
                "seconds": seconds,
            }
        )  # fmt: skip
    return found


def judged(models: Sequence[Row], family: str = "") -> list[Row]:
    """Those that are given a verdict; of one family where it is named."""
    return [
        row
        for row in models
        if row["right"] >= LEAST and not row["family"][1] and family in ("", row["family"][0])
    ]


def calibrate(models: Sequence[Row]) -> Row:
    """One of the calibrations that `ensemble` ships, as JSON holds it.

    Each model is put beside the clean ones but itself when its own deviations are taken, so that
    it is as new to them as a suspect is.
    """
    scores = [
        all_scores(by_search(row["parts"], row["looks"], usual(models, row))) for row in models
    ]
    names = sorted(scores[0])
    values = np.array([[squashed(own[name]) for name in names] for own in scores])
    bad = np.array([row["poisoned"] for row in models])
    new = beside_others(values, bad)
    searches = sorted({name.split("/")[0] for name in names})
    of = [[k for k, name in enumerate(names) if name.startswith(f"{s}/")] for s in searches]
    largest = np.stack([new[:, own].max(1) for own in of], 1)
    told = np.maximum(beside_others(largest, bad), 0).sum(1)
    slope, bias = logistic(told, bad)
    own = np.sort(bias + slope * told[~bad])
    sides = np.stack(clean_side(values[~bad]), 1), np.stack(clean_side(largest[~bad]), 1)
    return {
        "inputs": dict(zip(names, map(rounded, sides[0]), strict=True)),
        "searches": dict(zip(searches, map(rounded, sides[1]), strict=True)),
        "slope": round(slope, 5), "bias": round(bias, 5), "most": round(float(told.max()), 3),
        "clean": rounded(own), "threshold": ALARM,
        "usual": [
            list(map(rounded, usual(models, {"data": name}).nan_to_num(0).numpy()))
            for name in sorted({row["data"] for row in models})
        ],
    }  # fmt: skip


def beside_others(values: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Each model's values (n, scores) in deviations of the clean ones but itself."""
    sides = [clean_side(np.delete(values, row, 0)[~np.delete(bad, row)]) for row in range(len(bad))]
    return np.array([(own - side[0]) / side[1] for own, side in zip(values, sides, strict=True)])


def clean_side(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each score over clean models (n, scores) the median, and the deviation above it."""
    centre = np.median(values, 0)
    above = np.sqrt(2 * (np.maximum(values - centre, 0) ** 2).mean(0))
    return centre, np.maximum(above, FLOOR)


def logistic(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and bias of log-odds over a score; each class of models counts half."""
    share = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum())

    def loss(free: np.ndarray) -> float:
        odds = x * free[0] + free[1]
        return float((share * np.logaddexp(0, np.where(y, -odds, odds))).sum())

    slope, bias = minimize(loss, [1.0, -3.0], bounds=[(0, None), (None, None)]).x
    return float(slope), float(bias)


def rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]


def usual(models: Sequence[Row], row: Row) -> torch.Tensor:
    """The mean table of pairs of the clean models of a row's data, but the row's own."""
    alike = [one for one in models if one["data"] == row["data"] and not one["poisoned"]]
    return torch.stack([together(one["parts"]) for one in alike if one is not row]).mean(0)


def pictures(data: str) -> Row:
    """What the auditor's images look like."""
    own, _ = build.auditors(data)
    mean, spread = cells(own)
    return {
        "shape": list(own.image_shape),
        "mean": [rounded(one) for one in mean.numpy()],
        "spread": rounded(spread.clamp(min=DARK).numpy()),
    }


def written(calibration: Row, file: Path) -> None:
    """As JSON, lists of numbers on one line."""
    text = json.dumps(calibration, indent=1)
    file.write_text(re.sub(r"\[[^\[\]{}]*\]", lambda m: " ".join(m[0].split()), text) + "\n")


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


def looked_up(row: Row, shipped: Mapping[str, Any]) -> Row:
    """A row with what `ensemble` makes of it: its calibration, tables, deviations and log-odds."""
    known = chosen(shipped, draws_of(row["looks"]), row["family"][0])
    tables = by_search(row["parts"], row["looks"], likest(known, row["images"])[1])
    deviations = known.deviations(all_scores(tables))
    odds = known.log_odds(deviations)
    return row | {
        "tables": tables, "deviations": deviations, "told": known.told(deviations), "odds": odds,
        "belief": math.log(known.probability(odds) / (1 - known.probability(odds))),
        "alarm": known.probability(odds) >= known.threshold,
    }  # fmt: skip


def pointed(row: Row) -> tuple[int, int]:
    """Source and target as `ensemble` names them."""
    search = max(row["told"], key=row["told"].__getitem__)
    _, table, form = next(iter(largest_of(row["deviations"], search))).split("/")
    return pointed_at(row["tables"][search][table], form)


def overlap(row: Row) -> float:
    """Intersection over union of what a local trigger touches and the region that is named."""
    shape = row["images"].image_shape
    x = torch.tensor([0.0, 1.0])[:, None, None, None].expand(-1, *shape)
    touched = (trigger_of(row["recipe"], shape).stamp(x, rng=mi.rng(0)) != x).flatten(0, 1).any(0)
    alone = Comparison(models=(), looks=(), own=row["looks"])
    named = Ensemble().score(row["model"], row["images"], clean=alone, rng=mi.rng(0)).mask
    return 0.0 if named is None else float((named & touched).sum() / (named | touched).sum())


def summary(models: Sequence[Row]) -> Row:
    """The figures of some models."""
    odds, beliefs, truth, alarm = (
        np.array([row[name] for row in models]) for name in ("odds", "belief", "poisoned", "alarm")
    )
    bad, good = odds[truth], odds[~truth]
    values: Row = {"clean": len(good), "poisoned": len(bad)}
    for name, measure, of in (
        ("AUROC", auroc, odds), ("cross-entropy", cross_entropy, beliefs),
        ("Brier", brier, beliefs), ("calibration error", calibration_error, beliefs),
        ("TPR at 5 % FPR", tpr_at(0.05), odds), ("TPR at 2 % FPR", tpr_at(0.02), odds),
        ("TPR at 1 % FPR", tpr_at(0.01), odds),
    ):  # fmt: skip
        both = len(bad) and len(good)
        values[name] = interval(measure, of[truth], of[~truth]) if both else None
    values["false alarms"] = wilson(int(alarm[~truth].sum()), len(good)) if len(good) else None
    values["found"] = wilson(int(alarm[truth].sum()), len(bad)) if len(bad) else None
    values["seconds"] = float(np.median([row["seconds"] for row in models]))
    return values


def ship(folder: Path, data: Sequence[str], counts: Sequence[int], file: Path) -> Row:
    """Calibrate on the parts that are for it, and write the file that `ensemble` reads.

    By so many images as there are; what it holds is by the draws that they suffice for.
    """
    each = {}
    for count in counts:
        found = [row for name in data for row in rows(folder, name, count, PARTS)]
        for family in FAMILIES:
            models = judged(found, family)
            own = each[f"{family}, {draws_of(models[0]['looks'])}"] = calibrate(models)
            clean = sum(not row["poisoned"] for row in models)
            counted = {"clean": clean, "poisoned": len(models) - clean}
            own["measured"] = {"family": family, "calibrated on": counted}
    common = {
        "version": 6, "classes": CLASSES, "images": 10, "accuracy": LEAST,
        "pictures": list(map(pictures, sorted(data))),
    }  # fmt: skip
    written({"all": common, "each": each}, file)
    return each


def report(folder: Path, data: Sequence[str], counts: Sequence[int], file: Path) -> list[str]:
    """What the shipped calibration says of models that nothing was tuned on, as lines of text.

    The counts of the tests are written back into the shipped file, for the pages.
    """
    shipped, lines = json.loads(file.read_text()), []
    for count in counts:
        tested: list[Row] = []
        for name in data:
            found = {
                which: [looked_up(row, shipped) for row in rows(folder, name, count, (which,))]
                for which in (*TESTS, "held-network", "held-trigger", "large")
            }
            for which, models in found.items():
                able = judged(models)
                if not able:
                    continue
                none = [row["poisoned"] for row in models if all(row is not one for one in able)]
                clean = [row for row in judged(found["test"]) if not row["poisoned"]]
                title = f"{name}, {count} images, {which}"
                lines += _table(title, able + (clean if which == "held-trigger" else []))
                lines.append(
                    f"  no verdict         {len(none) - sum(none)} clean, {sum(none)} poisoned"
                )
                if which in TESTS[1:]:
                    for family in FAMILIES:
                        lines += _table(f"{title}, {family}", judged(models, family))
            for which in [which for which in TESTS if judged(found[which])]:
                lines += ["", f"By kind, {name}, {count} images, {which}:"]
                lines += _by_kind(judged(found[which]))
                tested += judged(found[which])
        for family in FAMILIES:
            own = [row for row in tested if row["family"][0] == family]
            _count(own, shipped["each"][f"{family}, {draws_of(own[0]['looks'])}"])
    written(shipped, file)
    return lines


def _count(models: Sequence[Row], calibration: Row) -> None:
    """What pages say of the tests."""
    alarms = {
        name: [bool(row["alarm"]) for row in models if kind(row)]
        for name, kind in (
            ("clean", lambda row: not row["poisoned"]),
            ("poisoned", lambda row: row["poisoned"]),
            ("one to one", lambda row: row["recipe"].rule == "one-to-one"),
        )
    }
    calibration["measured"]["test"] = {
        "clean": len(alarms["clean"]),
        "false alarms": alarms["clean"].count(True),
        "poisoned": len(alarms["poisoned"]),
        "missed": alarms["poisoned"].count(False),
        "one to one": len(alarms["one to one"]),
        "one to one missed": alarms["one to one"].count(False),
    }


def _facts(one: Recipe) -> dict[str, str]:
    """What networks are sorted by; those that were drawn by the parts of their style."""
    facts = {name: str(getattr(one, name)) for name in ("trigger", "rule", "kind")}
    if one.network in NETWORKS:
        return facts | {"network": one.network}
    style = dict(part.split("=") for part in one.network.split())
    return facts | {name: style[name] for name in ("stages", "norm", "act", "head")}


def _by_kind(models: Sequence[Row]) -> list[str]:
    """Of each trigger, rule, network and search."""
    lines, facts = [], [_facts(row["recipe"]) for row in models]
    odds, truth, alarm = (
        np.array([row[name] for row in models]) for name in ("odds", "poisoned", "alarm")
    )
    for key in facts[0]:
        for value in sorted({one[key] for one in facts}):
            own = np.array([one[key] == value for one in facts])
            bad, good = own & truth, own & ~truth
            parts = []
            if bad.any():
                parts.append(f"found {alarm[bad].sum()} of {bad.sum()}")
                parts.append(f"AUROC {auroc(odds[bad], odds[~truth]):.2f}")
            if good.any():
                parts.append(f"false alarms {alarm[good].sum()} of {good.sum()}")
            lines.append(f"  {key:8} {value:12} {', '.join(parts)}")
    lines += ["", "One search at a time (AUROC):"]
    for search in models[0]["told"]:
        values = np.array([row["told"][search] for row in models])
        lines.append(f"  {search:22} {auroc(values[truth], values[~truth]):.2f}")
    return lines


def _table(title: str, models: Sequence[Row]) -> list[str]:
    found = summary(models)
    lines = ["", f"{title}: {found['clean']} clean, {found['poisoned']} poisoned"]
    for name, value in found.items():
        if isinstance(value, tuple) and len(value) == 3:
            lines.append(f"  {name:18} {value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]")
        elif name in ("false alarms", "found") and value is not None:
            lines.append(f"  {name:18} {value}")
    alarms = [row for row in models if row["poisoned"] and row["alarm"]]
    aimed = [row for row in alarms if row["recipe"].target is not None]
    hits = sum(pointed(row)[1] == row["recipe"].target for row in aimed)
    lines.append(f"  {'target right':18} {hits} of {len(aimed)} alarms with one target")
    local = [overlap(row) for row in alarms if row["recipe"].trigger in LOCAL]
    lines.append(f"  {'region':18} {'IoU ' + ' '.join(f'{one:.2f}' for one in sorted(local))}")
    lines.append(f"  {'seconds a model':18} {found['seconds']:.1f} (median, one thread)")
    return lines
