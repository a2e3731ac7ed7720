"""Blacklight: refuses a query that is nearly the same as one before."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mithridate import rng as random
from mithridate.component import About
from mithridate.defenses.guard.base import Guard
from mithridate.errors import InputError, QueriesRefused, check_number, check_whole


@final
@dataclass(frozen=True, kw_only=True)
class Blacklight(Guard):
    """Compares fingerprints of images, of which attacks ask many alike (Li et al. 2022, section 5).

    Pixels are rounded to multiples of `quantize` (of 255), every window of `window` values of
    the flattened image is hashed, and the `keep` largest different hashes are the fingerprint. A
    query is refused if it shares more than `threshold` of its fingerprint with that of any image
    asked about before, refused ones included. Deviation: a keyed 64-bit hash (a random linear
    one, mixed as splitmix64 does) where theirs is a salted SHA-256; `seed` is the salt.

    It knows one user. Who asks about one image twice is refused, too.

    Args:
        quantize: 1 to 255.
        window: values a hash is made of, at least 1; theirs are 20 on CIFAR-10, 50 on MNIST.
        keep: hashes of a fingerprint, at least 1.
        threshold: share, in [0, 1).
        seed: the salt, which an attacker must not know.

    Raises:
        InputError: a value out of range; in use, images of fewer values than a window.

    >>> from torch import nn
    >>> from mithridate.classifier import Classifier
    >>> x = torch.rand((2, 1, 8, 8), generator=torch.Generator())
    >>> oracle = Blacklight().wrap(Classifier(nn.Flatten(), classes=64))
    >>> len(oracle.labels(x))
    2
    >>> oracle.labels(x[:1] + 0.01)
    Traceback (most recent call last):
    ...
    mithridate.errors.QueriesRefused: nearly the same image was asked about before
    """

    about: ClassVar[About] = About(paper="Li et al. 2022, section 5", atlas=("AML.M0015",))

    quantize: int = 50
    window: int = 20
    keep: int = 50
    threshold: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("quantize", self.quantize, low=1, high=255)
        check_whole("window", self.window, low=1)
        check_whole("keep", self.keep, low=1)
        check_number("threshold", self.threshold, low=0, high=1)
        if self.threshold == 1:
            raise InputError("threshold must be below 1, or nothing is refused")
        random.rng(self.seed)

    @classmethod
    def usual(cls, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        return {"window": 50 if image_shape[1:] == (28, 28) else 20}

    def watcher(self) -> Callable[[Tensor], None]:
        holders: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))
        asked = 0

        def watch(x: Tensor) -> None:
            nonlocal asked
            refused = False
            for print_ in self.fingerprints(x):
                shared = np.concatenate([np.asarray(holders[part]) for part in print_])
                most = int(np.bincount(shared).max(initial=0))
                refused |= most > self.threshold * len(print_)
                for part in print_:
                    holders[part].append(asked)
                asked += 1
            if refused:
                raise QueriesRefused("nearly the same image was asked about before")

        return watch

    def fingerprints(self, x: Tensor) -> list[list[int]]:
        """The largest hashes of each image (N, C, H, W), at most `keep`."""
        values = x[0].numel() if len(x) else self.window
        if values < self.window:
            raise InputError(f"images of {values} values have no window of {self.window}")
        flat = (x.flatten(1) * 255 / self.quantize).round().long().cpu().numpy().astype(np.uint64)
        key = torch.randint(2**62, (self.window,), generator=random.rng(self.seed)).numpy()
        factors = 2 * key.astype(np.uint64) + np.uint64(1)
        return [self._largest(row, factors) for row in flat]

    def _largest(self, row: NDArray[np.uint64], factors: NDArray[np.uint64]) -> list[int]:
        windows = np.lib.stride_tricks.sliding_window_view(row, self.window)
        hashes: NDArray[np.uint64] = windows @ factors
        for bits, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            hashes = (hashes ^ (hashes >> np.uint64(bits))) * np.uint64(factor)
        hashes ^= hashes >> np.uint64(31)
        largest: list[int] = np.unique(hashes)[-self.keep :].tolist()
        return largest
