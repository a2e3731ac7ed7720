"""A small network for the 8 x 8 digits that come with scikit-learn."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from mithridate.component import About
from mithridate.networks.base import Network, Shape, scaled


class DigitsCNN(Network):
    """conv3(16)-relu-conv3(32)-relu-pool2-fc(64)-relu-fc(classes), convolutions padded.

    Trains in seconds on one core; made for the demonstration and for tests.

    >>> import torch
    >>> DigitsCNN((1, 8, 8), 10)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    about: ClassVar[About] = About(paper="none: made for the demonstration")
    smallest = 2

    def build(self, image_shape: Shape, classes: int, width: float) -> list[nn.Module]:
        channels, height, breadth = image_shape
        first, second, hidden = scaled(16, width), scaled(32, width), scaled(64, width)
        return [
            nn.Conv2d(channels, first, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * (height // 2) * (breadth // 2), hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        ]
