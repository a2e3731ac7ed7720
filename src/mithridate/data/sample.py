"""Some images of a set, drawn once."""

from __future__ import annotations

import torch
from torch import Tensor

from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError
from mithridate.rng import child


def some_rows(data: ImageSet, count: int, rng: torch.Generator) -> Tensor:
    """At most `count` random rows, ascending; the same for a seed.

    Raises:
        InputError: count below 1.

    >>> from mithridate.rng import rng
    >>> data = ImageSet(torch.zeros(5, 1, 2, 2).byte(), [0, 1, 0, 1, 0], ["a", "b"])
    >>> some_rows(data, 9, rng(0))
    tensor([0, 1, 2, 3, 4])
    """
    if count < 1:
        raise InputError(f"samples is at least 1, got {count}")
    order = torch.randperm(len(data), generator=child(rng, "rows"))
    return order[:count].sort().values
