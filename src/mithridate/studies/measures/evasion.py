"""Evasion: what one attack leaves of one model's accuracy, image by image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mithridate.data import ImageSet
from mithridate.metrics import bootstrap_mean, distances, wilson
from mithridate.studies.engine.tables import write_table
from mithridate.studies.engine.unit import Inputs, Kind, Progress, Unit
from mithridate.studies.evasion import doubts_of
from mithridate.studies.kinds.adversarial import Attacked, attack_of
from mithridate.studies.measures.base import (
    TABLE,
    Measure,
    Named,
    Subject,
    row,
    write_pictures,
)
from mithridate.studies.parts import mean_part, proportion

SHOWN = 8


class Settings(Subject):
    """A model, an attack, its goal, and how many test images.

    Attributes:
        goal: "untargeted", or "targeted": to `target`, else to another class at random.
        samples: test images, drawn by `attack_seed`; all where there are fewer.
        attack_seed: of the attack's random choices.
    """

    attack: Named
    goal: Literal["untargeted", "targeted"] = "untargeted"
    target: int | None = Field(default=None, ge=0)
    samples: int = Field(default=1000, ge=1)
    attack_seed: int = Field(default=0, ge=0)


class Evasion(Measure):
    """Accuracy left, success, distances and cost of an attack."""

    settings = Settings
    columns: ClassVar = {
        "accuracy": {"title": "Clean accuracy", "unit": "share", "better": "up"},
        "accuracy_left": {"title": "Accuracy left", "unit": "share", "better": "up"},
        "success": {
            "title": "Attack success",
            "unit": "share",
            "better": "down",
            "note": "over the images that were classified rightly before",
        },
        "mean_l2": {"title": "Mean L2", "note": "of the images that were fooled"},
        "mean_linf": {"title": "Mean Linf", "note": "of the images that were fooled"},
        "median_l2": {"title": "Median L2", "note": "of the images that were fooled"},
        "mean_l2_by_channel": {
            "title": "Mean L2, channels added",
            "note": "the documents' measure; equal to the plain one for grey images",
        },
        "mean_linf_by_channel": {"title": "Mean Linf, channels added", "note": "likewise"},
        "queries": {"title": "Forward passes an image"},
        "gradients": {"title": "Gradients an image"},
    }
    views: ClassVar = [
        {"kind": "table"},
        {"kind": "bars", "value": "accuracy_left"},
        {"kind": "budget"},
        {"kind": "pictures", "arrays": ["examples_clean", "examples_changed"]},
    ]

    def unit(self, settings: Settings) -> Unit:
        """The measurement, over the adversarial images as a unit of their own."""
        attack_of(settings.attack)
        model, data = settings.subject(), settings.data_unit()
        spec = {
            "attack": settings.attack,
            "goal": settings.goal,
            "target": settings.target,
            "samples": settings.samples,
            "seed": settings.attack_seed,
            **settings.place,
        }
        images = Unit("adversarial", spec, {"model": model, "data": data})
        return Unit("evasion", {}, {"adversarial": images, "data": data})


class EvasionKind(Kind):
    """Reads the table of its input `adversarial`."""

    def make(
        self, spec: Mapping[str, Any], inputs: Inputs, folder: Path, tell: Progress
    ) -> dict[str, Any]:
        """Shares with intervals, distances of the fooled, some of the images."""
        found: Attacked = inputs["adversarial"]
        table, test = found.table, inputs["data"].test
        write_table(folder / TABLE, table)
        fooled = np.asarray(table["success"]) & _right(table)
        shown = torch.from_numpy(np.flatnonzero(fooled)[:SHOWN])
        if len(shown):
            clean = test.batch(found.rows[shown])[0]
            changed = found.adversarials[shown]
            write_pictures(folder, {"examples_clean": clean, "examples_changed": changed})
        values = measured(table, found.queries, found.gradients)
        values |= _by_channel(found, test, torch.from_numpy(np.flatnonzero(fooled)))
        return row(values, doubts_of(len(table), found.status), test)


def measured(table: pa.Table, queries: int, gradients: int) -> dict[str, Any]:
    """Shares with intervals, distances of the images that were fooled, and the cost of each."""
    right, n = _right(table), len(table)
    fooled = np.asarray(table["success"]) & right
    left = int((np.asarray(table["predicted"]) == np.asarray(table["label"])).sum())
    l2, linf = (np.asarray(table[name])[fooled] for name in ("l2", "linf"))
    return {
        "accuracy": proportion(wilson(int(right.sum()), n)),
        "accuracy_left": proportion(wilson(left, n)),
        "success": proportion(wilson(int(fooled.sum()), int(right.sum()))),
        "mean_l2": mean_part(bootstrap_mean(l2)),
        "mean_linf": mean_part(bootstrap_mean(linf)),
        "median_l2": float(np.median(l2)) if len(l2) else None,
        "queries": queries / n,
        "gradients": gradients / n,
    }


def _by_channel(found: Attacked, test: ImageSet, fooled: Tensor) -> dict[str, Any]:
    """Distances of the fooled images, the norms of their channels added up."""
    l2, linf = [np.zeros(0)], [np.zeros(0)]
    for start in range(0, len(fooled), 1024):
        part = fooled[start : start + 1024]
        sizes = distances(found.adversarials[part], test.batch(found.rows[part])[0])
        l2.append(sizes.l2_by_channel.numpy())
        linf.append(sizes.linf_by_channel.numpy())
    return {
        "mean_l2_by_channel": mean_part(bootstrap_mean(np.concatenate(l2))),
        "mean_linf_by_channel": mean_part(bootstrap_mean(np.concatenate(linf))),
    }


def _right(table: pa.Table) -> NDArray[np.bool_]:
    """Which images were classified rightly before the attack."""
    return np.asarray(np.asarray(table["clean"]) == np.asarray(table["label"]))
