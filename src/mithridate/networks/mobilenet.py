"""MobileNetV2 for small colour images."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from mithridate.component import About
from mithridate.networks.base import Centre, GlobalMean, Network, Shape, scaled

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""(expansion, channels, blocks, stride of the first block), Sandler et al. 2018, table 2."""


def _unit(before: int, after: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Module:
    """Convolution and batch normalisation."""
    convolution = nn.Conv2d(
        before, after, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(after))


class InvertedResidual(nn.Module):
    """Expand 1 x 1, filter each channel 3 x 3, project 1 x 1, no activation after the last."""

    def __init__(self, before: int, after: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = expansion * before
        self.path = nn.Sequential(
            _unit(before, inner, 1),
            nn.ReLU(),
            _unit(inner, inner, 3, stride=stride, groups=inner),
            nn.ReLU(),
            _unit(inner, after, 1),
        )
        self.shortcut: nn.Module | None = None
        if stride == 1:
            self.shortcut = nn.Identity() if before == after else _unit(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """path(x), plus the shortcut where the size stays."""
        out: Tensor = self.path(x)
        return out if self.shortcut is None else out + self.shortcut(x)


class MobileNetV2(Network):
    """MobileNetV2 (Sandler et al. 2018) with a CIFAR stem; 2,296,922 parameters at 10 classes.

    Deviations, all as usual for 32 x 32: stem and second stage keep the size (three halvings
    in place of five), ReLU in place of ReLU6, a projection shortcut where only the number of
    channels changes, an expansion convolution also at factor 1, no dropout; inputs are
    centred inside.

    >>> import torch
    >>> net = MobileNetV2((3, 32, 32), 10, width=0.25)
    >>> net(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    about: ClassVar[About] = About(paper="Sandler et al. 2018, table 2")
    smallest = 8

    def build(self, image_shape: Shape, classes: int, width: float) -> list[nn.Module]:
        before, last = scaled(32, width), scaled(1280, width)
        layers: list[nn.Module] = [Centre(), _unit(image_shape[0], before, 3), nn.ReLU()]
        for expansion, channels, blocks, stride in STAGES:
            after = scaled(channels, width)
            for index in range(blocks):
                layers += [InvertedResidual(before, after, expansion, 1 if index else stride)]
                before = after
        return [*layers, _unit(before, last, 1), nn.ReLU(), GlobalMean(), nn.Linear(last, classes)]
