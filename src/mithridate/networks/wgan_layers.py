"""The two networks of a WGAN-GP: layers only."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from mithridate.networks.base import scaled

DIM = 64
"""Channels of the widest plane at width 1."""


def plane_sizes(image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Height and width from the image down, halved (upwards) until both are at most 4.

    >>> plane_sizes((1, 28, 28))
    [(28, 28), (14, 14), (7, 7), (4, 4)]
    """
    planes = [image_shape[1:]]
    while max(planes[-1]) > 4:
        height, breadth = planes[-1]
        planes.append(((height + 1) // 2, (breadth + 1) // 2))
    return planes


def plane_channels(image_shape: tuple[int, int, int], width: float) -> list[int]:
    """Channels of each plane below the image: doubled at each, up to four times the first.

    >>> plane_channels((1, 28, 28), 1.0)
    [64, 128, 256]
    """
    levels = len(plane_sizes(image_shape)) - 1
    return [scaled(DIM * 2 ** min(level, 2), width) for level in range(levels)]


class Generator(nn.Module):
    """Codes (N, latent) to images (N, C, H, W) in [0, 1].

    fc, relu, then transposed convolutions (5 x 5, stride 2) that double the plane up to the
    image, with relu between and a sigmoid at the end.

    >>> Generator((1, 28, 28), latent=64)(torch.zeros(2, 64)).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        latent: int,
        width: float = 1.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.planes = plane_sizes(image_shape)[::-1]
        channels = plane_channels(image_shape, width)[::-1]
        self.first = (channels[0], *self.planes[0])
        height, breadth = self.planes[0]
        wide = channels[0] * height * breadth
        self.code = nn.Linear(latent, wide)
        self.start = nn.BatchNorm1d(wide) if batch_norm else nn.Identity()
        self.ups = nn.ModuleList()
        self.norms = nn.ModuleList()
        for before, after in pairwise((*channels, image_shape[0])):
            self.ups.append(nn.ConvTranspose2d(before, after, 5, 2, padding=2, output_padding=1))
        for after in channels[1:]:
            self.norms.append(nn.BatchNorm2d(after) if batch_norm else nn.Identity())

    def forward(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W)."""
        x = torch.relu(self.start(self.code(z))).view(-1, *self.first)
        for index, up in enumerate(self.ups):
            height, breadth = self.planes[index + 1]
            x = up(x)[:, :, :height, :breadth]
            if index < len(self.norms):
                x = torch.relu(self.norms[index](x))
        return torch.sigmoid(x)


class Critic(nn.Module):
    """Images (N, C, H, W) in [0, 1] to a score (N,), high for images of the data.

    Convolutions (5 x 5, stride 2) down to a plane of at most 4 x 4, leaky relu (0.2), then one
    linear layer. No normalisation: the gradient penalty is of each image by itself.

    >>> Critic((3, 32, 32), width=0.1)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2])
    """

    def __init__(self, image_shape: tuple[int, int, int], *, width: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = image_shape[0]
        for after in plane_channels(image_shape, width):
            layers += [nn.Conv2d(before, after, 5, 2, padding=2), nn.LeakyReLU(0.2)]
            before = after
        height, breadth = plane_sizes(image_shape)[-1]
        # a bias would cancel out of the loss
        layers += [nn.Flatten(), nn.Linear(before * height * breadth, 1, bias=False)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N,)."""
        out: Tensor = self.layers(x)
        return out[:, 0]
