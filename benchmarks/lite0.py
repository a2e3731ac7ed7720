"""EfficientNet-Lite0 as a user's own network: `--network benchmarks/lite0.py:Lite0`."""

from __future__ import annotations

from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

MEAN, STD = 127 / 255, 128 / 255
"""The authors' (tensorflow/tpu, efficientnet/lite): (pixel - 127) / 128 of 0 to 255."""


class Lite0(nn.Module):
    """Images (N, 3, 224, 224) in [0, 1], normalised here, to 1,000 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNet.from_name("efficientnet-lite0")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 1000)."""
        out: Tensor = self.network((x - MEAN) / STD)
        return out
