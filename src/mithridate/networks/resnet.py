"""ResNet-18 for small colour images."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mithridate.component import About
from mithridate.networks.base import Centre, GlobalMean, Network, Shape, scaled


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """relu(path(x) + shortcut(x))."""
        return torch.relu(self.path(x) + self.shortcut(x))


class ResNet18(Network):
    """ResNet-18 (He et al. 2016, table 1) with a CIFAR stem: one 3 x 3 convolution, no pooling.

    11,173,962 parameters for 3 x 32 x 32 and 10 classes. Deviations: the stem; projection
    shortcuts (option B) wherever the size changes; inputs are centred inside.

    >>> net = ResNet18((3, 32, 32), 10, width=0.25)
    >>> net(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    about: ClassVar[About] = About(paper="He et al. 2016, table 1")
    smallest = 8

    def build(self, image_shape: Shape, classes: int, width: float) -> list[nn.Module]:
        stages = [scaled(n, width) for n in (64, 128, 256, 512)]
        layers: list[nn.Module] = [
            Centre(),
            nn.Conv2d(image_shape[0], stages[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(stages[0]),
            nn.ReLU(),
        ]
        before = stages[0]
        for index, after in enumerate(stages):
            layers += [BasicBlock(before, after, 1 if index == 0 else 2)]
            layers += [BasicBlock(after, after, 1)]
            before = after
        return [*layers, GlobalMean(), nn.Linear(before, classes)]
