"""What was asked of a model: the total, and where wanted the share of each row of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, final

if TYPE_CHECKING:  # a plan's estimate, and names, are told without torch
    import torch
    from torch import Tensor


class Work(NamedTuple):
    """How much will be asked of a model, for an estimate; images, and bytes on the disk."""

    forwards: int = 0
    gradients: int = 0
    trained: int = 0
    disk: int = 4096


class Sizes(NamedTuple):
    """How large the sets are: images to train and to test with (or to attack), and classes."""

    train: int = 0
    test: int = 0
    classes: int = 2


@final
class Ledger:
    """Images forwarded, or refused by a guard, for each row of one batch.

    Attributes:
        counts: int64 (n,).
        rows: int64, the rows of the batch that passes are being made for; all at first.
        broken: a pass did not fit `rows`, so `counts` means nothing.
    """

    def __init__(self, n: int, device: torch.device | str = "cpu") -> None:
        import torch

        self.counts = torch.zeros(n, dtype=torch.int64, device=device)
        self.rows = torch.arange(n, device=device)
        self.broken = False

    def charge(self, images: int) -> None:
        """Share a pass of some images among `rows`: each gets the same whole number.

        Only lengths are looked at, never values: no wait for the device.
        """
        times, rest = divmod(images, max(1, len(self.rows)))
        if rest or (images and not len(self.rows)):
            self.broken = True
        else:
            self.counts.index_add_(0, self.rows, self.rows.new_full(self.rows.shape, times))


@dataclass
class Cost:
    """What was asked of a model: images forwarded, and images differentiated.

    Attributes:
        queries: images forwarded.
        gradients: images differentiated; each was forwarded too.
        refused: images asked about that a guard refused; none was forwarded.
        ledger: images asked about per row, refused ones too, kept inside `by_row`.
    """

    queries: int = 0
    gradients: int = 0
    refused: int = 0
    ledger: Ledger | None = field(default=None, repr=False, compare=False)

    def charge(self, images: int) -> None:
        """Enter one pass in the ledger, if one is kept. `queries` is counted elsewhere."""
        if self.ledger is not None:
            self.ledger.charge(images)

    @contextmanager
    def by_row(self, n: int, device: torch.device | str = "cpu") -> Iterator[Ledger]:
        """Keep a ledger for a batch of n images. Inside another, only the inner one is kept.

        >>> import torch
        >>> cost = Cost()
        >>> with cost.by_row(3) as ledger:
        ...     cost.charge(3)
        ...     with cost.on_rows(torch.tensor([2, 0])):
        ...         cost.charge(4)
        >>> ledger.counts, ledger.broken
        (tensor([3, 1, 3]), False)
        """
        outer, ledger = self.ledger, Ledger(n, device)
        self.ledger = ledger
        try:
            yield ledger
        finally:
            self.ledger = outer

    @contextmanager
    def on_rows(self, rows: Tensor | slice | None) -> Iterator[None]:
        """Say which rows the passes inside are made for. Without a ledger it does nothing.

        Each pass holds every named row equally often, in any order. That only the attack can
        know: a pass of two points for half of the rows looks like one of a point for each.

        Args:
            rows: int64 indices, a bool mask (makes a GPU wait) or a slice of the rows of the
                enclosing `on_rows`, or of the batch; None for all of them.
        """
        ledger = self.ledger
        if ledger is None or rows is None:
            yield
            return
        outer = ledger.rows
        ledger.rows = outer[rows]
        try:
            yield
        finally:
            ledger.rows = outer
