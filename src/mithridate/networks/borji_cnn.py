"""The two-convolution digit network of the bias-map study."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from mithridate.component import About
from mithridate.networks.base import Network, Shape, scaled


class BorjiCNN(Network):
    """conv5(20)-relu-pool2-conv5(50)-relu-pool2-fc(500)-relu-fc(classes).

    Borji, "Adversarial examples are useful too!" (2020), figure 23. On
    28 x 28 the first dense layer reads 800 values; other image sizes change that number only.

    >>> import torch
    >>> BorjiCNN((1, 28, 28), 10)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    about: ClassVar[About] = About(paper="Borji 2020, figure 23")
    smallest = 16

    def build(self, image_shape: Shape, classes: int, width: float) -> list[nn.Module]:
        channels, height, breadth = image_shape
        first, second, hidden = scaled(20, width), scaled(50, width), scaled(500, width)
        rows, cols = (((n - 4) // 2 - 4) // 2 for n in (height, breadth))
        return [
            nn.Conv2d(channels, first, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * rows * cols, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        ]
