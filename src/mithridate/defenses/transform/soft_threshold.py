"""Soft thresholding: small wavelet coefficients, where perturbations live, are set to zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate.component import About
from mithridate.defenses.transform.base import Transform
from mithridate.errors import InputError, check_number, check_whole

HAAR = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
"""Mean, and horizontal, vertical and diagonal detail, of a square of four pixels: orthonormal."""


@final
@dataclass(frozen=True, kw_only=True)
class SoftThreshold(Transform):
    """Details of the Haar wavelet shrunk by `threshold`, and at most to zero.

    Shaham et al. 2018, soft-thresholding; c becomes `sign(c) max(|c| - threshold, 0)` (Donoho
    1995). Each level halves the size; sides that do not divide are mirrored out and cut again.
    What leaves [0, 1] is cut; who knows the defence takes the gradient without the cut.

    Args:
        threshold: of the coefficients of an orthonormal basis, at least 0.
        levels: 1 to 8.

    Raises:
        InputError: a value out of range; in use, an image smaller than 2^levels.

    >>> x = torch.tensor([[[[0.5, 0.3], [0.5, 0.3]]]])
    >>> SoftThreshold(threshold=0.1).transform(x)[0, 0, 0]
    tensor([0.4500, 0.3500])
    """

    about: ClassVar[About] = About(paper="Shaham et al. 2018", atlas=("AML.M0010",))

    threshold: float = 0.1
    levels: int = 1

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, low=0)
        check_whole("levels", self.levels, low=1, high=8)

    def transform(self, x: Tensor) -> Tensor:
        return self.surrogate(x).clamp(0, 1)

    def surrogate(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        side = 2**self.levels
        if min(height, width) < side:
            raise InputError(
                f"images of {height} x {width} are smaller than {side}, which {self.levels} levels "
                "need: take fewer"
            )
        columns = torch.cat([x, x[..., width - -width % side :].flip(3)], 3)
        whole = torch.cat([columns, columns[:, :, height - -height % side :].flip(2)], 2)
        return self._shrunk(whole, self.levels)[:, :, :height, :width]

    def _shrunk(self, x: Tensor, levels: int) -> Tensor:
        if levels == 0:
            return x
        count, channels, height, width = x.shape
        turn = HAAR.to(x).view(4, 2, 2)
        squares = x.reshape(count, channels, height // 2, 2, width // 2, 2)
        parts = torch.einsum("kab,nchawb->nckhw", turn, squares)
        details = F.softshrink(parts[:, :, 1:], self.threshold)
        parts = torch.cat([self._shrunk(parts[:, :, 0], levels - 1)[:, :, None], details], 2)
        return torch.einsum("kab,nckhw->nchawb", turn, parts).reshape(x.shape)
