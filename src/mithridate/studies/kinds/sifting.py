"""What a filter of training data drops of a poisoned set, as a unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mithridate import component
from mithridate.data import ImageSet
from mithridate.defenses.sanitize.base import Sanitizer
from mithridate.doubts import Doubt
from mithridate.networks.storage import read_tensors, write_tensors
from mithridate.poisons import Poisoned
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import (
    Inputs,
    Kind,
    Needs,
    Progress,
    Sizes,
    Unit,
    Work,
    module_of,
)

FILE = "sifted.safetensors"
TRUSTED = 1024
"""Trusted images."""


@dataclass(frozen=True, eq=False)
class SiftedRows:
    """What a filter said of a poisoned set.

    Attributes:
        name: of the filter.
        rows: the rows that it judged, ascending; trusted ones are not among them.
        keep: bool, one for each of `rows`.
        doubts: why not to trust it.
    """

    name: str
    rows: Tensor
    keep: Tensor
    doubts: tuple[Doubt, ...]


class SiftKind(Kind):
    """Lets a filter judge the training set of the input `model`: `poisoned`, or `data`.

    spec: `filter` (name, settings) and `seed`. A filter with the setting `trusted` gets 1,024
    random training images that the poison did not touch, at most half of these, and judges the
    others: test images take no part. Where the poison touched every image there are none, and
    the filter does without.
    """

    def make(
        self, spec: Mapping[str, Any], inputs: Inputs, folder: Path, tell: Progress
    ) -> dict[str, Any]:
        """Judge, and keep the mask."""
        poisoned: Poisoned = inputs["poisoned"]
        random = child(rng(int(spec["seed"])), "sift", str(spec["filter"]["name"]))
        sanitizer, images = filter_of(spec["filter"]), poisoned.images
        rows = torch.arange(len(images))
        if "trusted" in sanitizer.__dataclass_fields__:  # type: ignore[attr-defined]
            trusted, rows = split_trusted(poisoned, random)
            if trusted is not None:
                images = images.subset(rows)
                sanitizer = replace(sanitizer, trusted=trusted)  # type: ignore[type-var]
        found = sanitizer.sift(inputs["model"], images, rng=random)
        tensors = {"rows": rows, "keep": found.keep.byte(), "score": found.score}
        write_tensors(folder / FILE, tensors, {"kind": "sifted"})
        return {
            "doubts": [[doubt.id, doubt.text] for doubt in found.doubts],
            "suspicious": list(found.suspicious),
        }

    def open(
        self, folder: Path, values: Mapping[str, Any], spec: Mapping[str, Any], inputs: Inputs
    ) -> SiftedRows:
        """Which rows it judged and would keep."""
        found, _ = read_tensors(folder / FILE)
        doubts = tuple(Doubt(str(name), str(text)) for name, text in values["doubts"])
        name = str(spec["filter"]["name"])
        return SiftedRows(name, found["rows"], found["keep"].bool(), doubts)

    def code(self, spec: Mapping[str, Any]) -> tuple[str, ...]:
        """The filter's."""
        return module_of("sanitizers", str(spec["filter"]["name"]))

    def needs(self, spec: Mapping[str, Any]) -> Needs:
        """The data set and its features."""
        return Needs(gpus=int(spec["device"] == "cuda"), memory=3 * 2**30)

    def work(self, unit: Unit, sizes: Sizes) -> Work:
        """Features of all images, once for the filter and once for what tells the poison."""
        judge = 30_000 if unit.spec["filter"]["name"] == "outliers" else 0
        return Work(forwards=2 * sizes.train, trained=judge, disk=17 * sizes.train)


def filter_of(settings: Mapping[str, Any]) -> Sanitizer:
    """The filter that a table of settings describes.

    Raises:
        InputError: unknown name or setting, or a value out of range.

    >>> filter_of({"name": "outliers", "count": 300}).count
    300
    """
    values = {key: value for key, value in settings.items() if key != "name"}
    made: Sanitizer = component.create("sanitizers", str(settings["name"]), values)
    return made


def split_trusted(
    poisoned: Poisoned, random: torch.Generator, count: int = TRUSTED
) -> tuple[ImageSet | None, Tensor]:
    """Random rows that the poison left alone, as a set to be trusted; and all other rows.

    At most half of the untouched rows are taken; None where there are none.

    >>> data = ImageSet(torch.zeros(5, 1, 1, 1).byte(), [0] * 5, ["a", "b"])
    >>> made = Poisoned(images=data, indices=torch.tensor([1]), trigger=None, target=0,
    ...     source=None, original_labels=torch.tensor([0]))
    >>> trusted, rows = split_trusted(made, rng(0))
    >>> len(trusted), len(rows), 1 in rows
    (2, 3, True)
    """
    free = torch.ones(len(poisoned.images), dtype=torch.bool)
    free[poisoned.indices] = False
    untouched = free.nonzero()[:, 0]
    count = min(count, len(untouched) // 2)
    rows = torch.ones(len(poisoned.images), dtype=torch.bool)
    if count == 0:
        return None, rows.nonzero()[:, 0]
    order = torch.randperm(len(untouched), generator=child(random, "trusted"))
    chosen = untouched[order[:count]].sort().values
    rows[chosen] = False
    return poisoned.images.subset(chosen, "trusted"), rows.nonzero()[:, 0]
