"""Feature squeezing: an image is suspicious whose squeezed copies are answered otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier, laid_like
from mithridate.component import About
from mithridate.defenses.detect.base import Detector, Shape, copied
from mithridate.defenses.transform.base import Transform
from mithridate.defenses.transform.bit_depth import BitDepth
from mithridate.defenses.transform.spatial_smoothing import SpatialSmoothing
from mithridate.errors import InputError


@final
@dataclass(frozen=True, kw_only=True)
class FeatureSqueezing(Detector):
    """The largest L1 distance of softmax outputs, for the image and a squeezed copy of it.

    Xu et al. 2018, section IV, equation 2: copies of fewer `bits`, and of a median of `window`
    pixels a side. Deviation: without their third, non-local means, for colour. The detector has
    gradients: those of the median, and of the identity in place of the rounding (BPDA).

    Args:
        rate, held_out: as `Detector`.
        bits: of the one squeezer, 1 to 8.
        window: of the other, 2 to 7.

    Raises:
        InputError: a value out of range; in use, a model that gives labels alone.

    >>> FeatureSqueezing(bits=1, window=2).rate
    0.05
    """

    about: ClassVar[About] = About(
        paper="Xu et al. 2018, section IV", needs=("clean images",), atlas=("AML.M0015",)
    )

    rate: float = 0.05
    bits: int = 5
    window: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.squeezers()

    @classmethod
    def usual(cls, image_shape: Shape) -> dict[str, Any]:
        return BitDepth.usual(image_shape)

    def squeezers(self) -> tuple[Transform, ...]:
        """What makes the copies."""
        return BitDepth(bits=self.bits), SpatialSmoothing(window=self.window)

    def build(self, model: Classifier, image_shape: Shape) -> nn.Module:
        if not model.scored:
            raise InputError("feature-squeezing compares scores, and this model gives labels alone")
        return _Gap(copied(model), self.squeezers())


class _Gap(nn.Module):
    def __init__(self, core: nn.Module, squeezers: tuple[Transform, ...]) -> None:
        super().__init__()
        self.core, self.squeezers = core, squeezers

    def forward(self, x: Tensor) -> Tensor:
        answer = self.core(x).softmax(1)
        gaps = [
            (self.core(laid_like(squeezer.known(x), x)).softmax(1) - answer).abs().sum(1)
            for squeezer in self.squeezers
        ]
        return torch.stack(gaps).amax(0)
