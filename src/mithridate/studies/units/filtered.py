"""What a filter of training data keeps of a poisoned set, as a unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import Choice
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.sanitize.base import Sanitizer
from mithridate.doubts import Doubt
from mithridate.networks.storage import read_tensors, write_tensors
from mithridate.poisons import Poisoned
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.units.data import Data

FILE = "kept.safetensors"
TRUSTED = 1024
"""Trusted images."""


@dataclass(frozen=True, eq=False)
class KeptRows:
    """What a filter keeps of a training set.

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

    @property
    def rows_kept(self) -> Tensor:
        """The rows to train on; trusted ones were not judged, and are left out."""
        return self.rows[self.keep]


@dataclass(frozen=True, kw_only=True, eq=False)
class Filtered(Unit[KeptRows]):
    """A filter's judgement of the training set of `model`: `poisoned`, or that of `data`.

    A filter with the setting `trusted` gets 1,024 random training images that the poison did not
    touch, at most half of these, and judges the others: test images take no part. Where the
    poison touched every image there are none, and the filter does without.
    """

    kind: ClassVar = "filtered"
    memory: ClassVar = 3 * 2**30

    data: Data
    model: Unit[Classifier]
    poisoned: Unit[Poisoned] | None = None
    sanitizer: Choice
    seed: int

    def __post_init__(self) -> None:
        self.sanitizer.make()

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        random = child(rng(self.seed), "sift", self.sanitizer.name)
        sanitizer: Sanitizer = self.sanitizer.make()
        if self.poisoned is None:
            images, touched = get(self.data).train, torch.zeros(0, dtype=torch.int64)
        else:
            poisoned = get(self.poisoned)
            images, touched = poisoned.images, poisoned.indices
        rows = torch.arange(len(images))
        if "trusted" in sanitizer.__dataclass_fields__:  # type: ignore[attr-defined]
            trusted, rows = split_trusted(images, touched, random)
            if trusted is not None:
                images = images.subset(rows)
                sanitizer = replace(sanitizer, trusted=trusted)  # type: ignore[type-var]
        result = sanitizer.filter(get(self.model), images, rng=random)
        tensors = {"rows": rows, "keep": result.keep.byte(), "score": result.score}
        write_tensors(folder / FILE, tensors, {"kind": "kept"})
        return {
            "doubts": [[doubt.id, doubt.text] for doubt in result.doubts],
            "suspicious": list(result.suspicious),
        }

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> KeptRows:
        tensors, _ = read_tensors(folder / FILE)
        doubts = tuple(Doubt(str(name), str(text)) for name, text in values["doubts"])
        return KeptRows(self.sanitizer.name, tensors["rows"], tensors["keep"].bool(), doubts)

    def work(self, sizes: Sizes) -> Work:
        work: Work = self.sanitizer.make().cost(sizes)
        return work._replace(disk=17 * sizes.train)


def split_trusted(
    images: ImageSet, touched: Tensor, random: torch.Generator, count: int = TRUSTED
) -> tuple[ImageSet | None, Tensor]:
    """Random rows that the poison left alone, as a set to be trusted; and all other rows.

    At most half of the untouched rows are taken; None where there are none.

    >>> data = ImageSet(torch.zeros(5, 1, 1, 1).byte(), [0] * 5, ["a", "b"])
    >>> trusted, rows = split_trusted(data, torch.tensor([1]), rng(0))
    >>> len(trusted), len(rows), 1 in rows
    (2, 3, True)
    """
    free = torch.ones(len(images), dtype=torch.bool)
    free[touched] = False
    untouched = free.nonzero()[:, 0]
    count = min(count, len(untouched) // 2)
    rows = torch.ones(len(images), dtype=torch.bool)
    if count == 0:
        return None, rows.nonzero()[:, 0]
    order = torch.randperm(len(untouched), generator=child(random, "trusted"))
    chosen = untouched[order[:count]].sort().values
    rows[chosen] = False
    return images.subset(chosen, "trusted"), rows.nonzero()[:, 0]
