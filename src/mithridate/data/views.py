"""Stores that look into another store: some of its rows, or all of them with a few replaced."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from mithridate.data.store import Store


@final
class SubsetStore:
    """Rows of another store, in any order; costs 8 bytes a row.

    >>> from mithridate.data.store import TensorStore
    >>> base = TensorStore(torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1))
    >>> SubsetStore(base, torch.tensor([2, 0])).read(torch.tensor([0])).item()
    2
    """

    def __init__(self, base: Store, rows: Tensor) -> None:
        # A subset of a subset looks straight into the first store, so depth stays one.
        if isinstance(base, SubsetStore):
            rows = base._rows[rows]
            base = base._base
        self._base: Store = base
        self._rows: Tensor = rows.clone()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._base.image_shape

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, rows: Tensor) -> Tensor:
        return self._base.read(self._rows[rows])


@final
class ChangedStore:
    """Another store with some rows replaced; costs the new pixels and 8 bytes a row.

    >>> from mithridate.data.store import TensorStore
    >>> base = TensorStore(torch.zeros(3, 1, 1, 1, dtype=torch.uint8))
    >>> new = torch.full((1, 1, 1, 1), 9, dtype=torch.uint8)
    >>> ChangedStore(base, torch.tensor([1]), new).read(torch.arange(3)).flatten()
    tensor([0, 9, 0], dtype=torch.uint8)
    """

    def __init__(self, base: Store, rows: Tensor, images: Tensor) -> None:
        self._base = base
        self._images = images.clone()
        self._place = torch.full((len(base),), -1)
        self._place[rows] = torch.arange(len(rows))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._base.image_shape

    def __len__(self) -> int:
        return len(self._base)

    def read(self, rows: Tensor) -> Tensor:
        out = self._base.read(rows)
        place = self._place[rows]
        changed = place >= 0
        out[changed] = self._images[place[changed]]
        return out
