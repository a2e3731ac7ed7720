"""What the same images say of two runs: which judgement a value counts, and the paired tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mithridate.reports.schema import Proportion

NEEDED = ("cell", "image", "label", "clean", "predicted", "success")
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """The images of one cell, by image number; a candidate is (counted images, judgement)."""

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    candidates: Mapping[str, tuple[Flags, Flags]]


@dataclass(frozen=True)
class Paired:
    """Second less first on the same n images: limits, and McNemar's exact p."""

    low: float
    high: float
    p: float
    n: int


def by_cell(images: pa.Table | None) -> dict[str, Judged]:
    """Cell -> its images; empty where none was recorded."""
    if images is None or images.num_rows == 0:
        return {}
    codes = images["cell"].combine_chunks().dictionary_encode()
    names, at = codes.dictionary.to_pylist(), codes.indices.to_numpy()
    columns = {name: images[name].to_numpy() for name in NEEDED[1:]}
    order = np.lexsort((columns["image"], at))
    ends = np.cumsum(np.bincount(at, minlength=len(names)))
    parts = np.split(order, ends[:-1])
    return {
        name: _judged({column: values[rows] for column, values in columns.items()})
        for name, rows in zip(names, parts, strict=True)
    }


def _judged(rows: Mapping[str, NDArray[np.generic]]) -> Judged:
    everyone = np.ones(len(rows["image"]), dtype=bool)
    success = rows["success"].astype(bool)
    right, before = rows["predicted"] == rows["label"], rows["clean"] == rows["label"]
    candidates = {
        "success": (everyone, success),
        "success of those right before": (before, success),
        "accuracy": (everyone, right),
        "clean accuracy": (everyone, before),
    }
    image, label = (rows[name].astype(np.int64) for name in ("image", "label"))
    return Judged(image, label, candidates)


def compare(
    name: str, first: tuple[Proportion, Judged | None], second: tuple[Proportion, Judged | None]
) -> Paired | None:
    """The paired interval and test; None where it is not the same images that were counted.

    Which judgement `name` counts is found by its k and n, which have to agree in both runs.
    """
    from mithridate.metrics import mcnemar, paired_difference, pairs

    (one, ours), (two, theirs) = first, second
    if ours is None or theirs is None:
        return None
    same = np.array_equal(ours.image, theirs.image) and np.array_equal(ours.label, theirs.label)
    if not same or len(np.unique(ours.image)) < len(ours.image):
        return None
    order = sorted(ours.candidates, key=lambda kind: ("accuracy" in kind) != ("accura" in name))
    for kind in order:
        counted, flags = ours.candidates[kind]
        also, others = theirs.candidates[kind]
        if not (_is(one, counted, flags) and _is(two, also, others)):
            continue
        if not np.array_equal(counted, also):
            return None
        table = pairs(others[counted], flags[counted])
        found = paired_difference(table)
        return Paired(found.low, found.high, mcnemar(table), table.n)
    return None


def _is(share: Proportion, counted: Flags, flags: Flags) -> bool:
    return share.n == int(counted.sum()) and share.k == int((flags & counted).sum())
