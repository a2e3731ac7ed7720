"""DenseNet-121 for small colour images."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mithridate.component import About
from mithridate.networks.base import Centre, GlobalMean, Network, Shape, scaled

BLOCKS = (6, 12, 24, 16)
"""Layers of each dense block, Huang et al. 2017, table 1."""


class DenseLayer(nn.Module):
    """BN-relu-conv1(4 growth)-BN-relu-conv3(growth), its output beside its input (DenseNet-B)."""

    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.ReLU(),
            nn.Conv2d(before, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) to (N, before + growth, H, W)."""
        return torch.cat([x, self.path(x)], 1)


class DenseNet121(Network):
    """DenseNet-121 (Huang et al. 2017) with growth 32 and compression 0.5.

    Deviations: a CIFAR stem (one 3 x 3 convolution of 64 channels, no pooling), so that
    32 x 32 images end at 4 x 4; inputs are centred inside.

    >>> net = DenseNet121((3, 32, 32), 10, width=0.125)
    >>> net(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    about: ClassVar[About] = About(paper="Huang et al. 2017, table 1")
    smallest = 8

    def build(self, image_shape: Shape, classes: int, width: float) -> list[nn.Module]:
        growth, channels = scaled(32, width), scaled(64, width)
        layers: list[nn.Module] = [
            Centre(),
            nn.Conv2d(image_shape[0], channels, 3, padding=1, bias=False),
        ]
        for index, count in enumerate(BLOCKS):
            if index:  # a transition: half the channels, half the size
                half = max(1, channels // 2)
                layers += [nn.BatchNorm2d(channels), nn.ReLU()]
                layers += [nn.Conv2d(channels, half, 1, bias=False), nn.AvgPool2d(2)]
                channels = half
            for _ in range(count):
                layers += [DenseLayer(channels, growth)]
                channels += growth
        layers += [nn.BatchNorm2d(channels), nn.ReLU(), GlobalMean()]
        return [*layers, nn.Linear(channels, classes)]
