"""Bit depth: fewer levels of each pixel, so that small changes round away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import Tensor

from mithridate.component import About
from mithridate.defenses.transform.base import Transform
from mithridate.errors import check_whole


@final
@dataclass(frozen=True, kw_only=True)
class BitDepth(Transform):
    """Each value to the nearest of 2^bits levels from 0 to 1 (Xu et al. 2018, section III-A).

    Halves go to the even level, as NumPy's `rint` in the authors' code. The gradient is zero: who
    knows the defence takes that of the identity (BPDA).

    Args:
        bits: 1 to 8.

    Raises:
        InputError: another number.

    >>> import torch
    >>> BitDepth(bits=2).transform(torch.tensor([[[[0.1, 0.4, 0.9]]]]))
    tensor([[[[0.0000, 0.3333, 1.0000]]]])
    """

    about: ClassVar[About] = About(paper="Xu et al. 2018, section III-A", atlas=("AML.M0010",))

    bits: int = 4

    def __post_init__(self) -> None:
        check_whole("bits", self.bits, low=1, high=8)

    @classmethod
    def usual(cls, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        return {"bits": 1 if image_shape[0] == 1 else 5}

    def transform(self, x: Tensor) -> Tensor:
        levels = float(2**self.bits - 1)
        return (x * levels).round() / levels

    def surrogate(self, x: Tensor) -> Tensor:
        return x
