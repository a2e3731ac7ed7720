"""The eight-layer MNIST network of the poisoning studies."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from mithridate.component import About
from mithridate.networks.base import Network, Shape, scaled


class MnistCNN(Network):
    """Two convolutions, pooling, two dropouts, flatten, two dense layers.

    conv3(32)-relu-conv3(64)-relu-pool2-dropout 0.25-flatten-fc(128)-relu-dropout 0.5-
    fc(classes): the network of Useloff, "Adversarial Learning: Backdoor Attacks" (2020). Ends in
    logits, where the Keras model there ends in a softmax.

    >>> import torch
    >>> MnistCNN((1, 28, 28), 10)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    about: ClassVar[About] = About(paper="Useloff 2020")
    smallest = 6

    def build(self, image_shape: Shape, classes: int, width: float) -> list[nn.Module]:
        channels, height, breadth = image_shape
        first, second, hidden = scaled(32, width), scaled(64, width), scaled(128, width)
        rows, cols = ((n - 4) // 2 for n in (height, breadth))
        return [
            nn.Conv2d(channels, first, 3),
            nn.ReLU(),
            nn.Conv2d(first, second, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(second * rows * cols, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, classes),
        ]
