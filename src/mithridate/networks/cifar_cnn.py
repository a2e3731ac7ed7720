"""The four-convolution CIFAR-10 network of the evasion study."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from mithridate.component import About
from mithridate.networks.base import Centre, Network, Shape, scaled


def _block(before: int, after: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(after, after, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
    ]


class CifarCNN(Network):
    """Two blocks conv3(c, padded)-relu-conv3(c)-relu-pool2-dropout, c = 32 and 64, then dense.

    fc(512)-relu-dropout 0.5-fc(classes); 1,250,858 parameters for 3 x 32 x 32 and 10 classes,
    the table of Zhong et al., "Adversarial Machine Learning" (2020), figure 5. Deviations:
    inputs are centred inside, and the last layer gives logits.

    >>> net = CifarCNN((3, 32, 32), 10)
    >>> sum(p.numel() for p in net.parameters())
    1250858
    """

    about: ClassVar[About] = About(paper="Zhong et al. 2020, figure 5")
    smallest = 10

    def build(self, image_shape: Shape, classes: int, width: float) -> list[nn.Module]:
        channels, height, breadth = image_shape
        first, second, hidden = scaled(32, width), scaled(64, width), scaled(512, width)
        rows, cols = (((n - 2) // 2 - 2) // 2 for n in (height, breadth))
        return [
            Centre(),
            *_block(channels, first),
            *_block(first, second),
            nn.Flatten(),
            nn.Linear(second * rows * cols, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, classes),
        ]
