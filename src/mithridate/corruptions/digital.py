"""Digital: contrast, elastic deformation, coarse pixels, a lossy file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mithridate.component import About
from mithridate.corruptions.base import Corruption
from mithridate.corruptions.filters import bilinear, blurred
from mithridate.rng import Draws


@final
@dataclass(frozen=True, kw_only=True)
class Contrast(Corruption):
    """Every channel drawn towards its mean over the image.

    To 75, 50, 40, 30, 15 % of its distance.

    >>> x = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    >>> Contrast(severity=2).apply(x, rng=0).flatten()
    tensor([0.2510, 0.7490])
    """

    about: ClassVar[About] = About(paper="Hendrycks and Dietterich 2019, section 4.1")
    levels: ClassVar = (0.75, 0.5, 0.4, 0.3, 0.15)

    def change(self, x: Tensor, draws: Draws) -> Tensor:
        mean = x.double().mean((2, 3), keepdim=True).to(x)
        return (x - mean) * self.levels[self.severity - 1] + mean


@final
@dataclass(frozen=True, kw_only=True)
class ElasticTransform(Corruption):
    """The image pulled at three points, and then each pixel moved a little with its neighbours.

    Three corners of a square around the middle, of two thirds of the side, move by up to a share
    of the side, and the image follows by the one affine map that does so. Then pixels are read at
    uniform noise times alpha, blurred by sigma, away from their places (Simard et al. 2003). As
    shares of the shorter side, alpha, sigma, and the pull: (0, 0, 0.08), (0.05, 0.2, 0.07),
    (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03): the first severity pulls most and
    waves least, so that more severe need not mean more distant. Both read bilinearly. A blurred
    noise is small: at 32 x 32 pixels move by 0.04 to 0.5 pixel.

    >>> x = torch.full((1, 1, 8, 8), 0.2)
    >>> ElasticTransform().apply(x, rng=0).unique()
    tensor([0.2000])
    """

    about: ClassVar[About] = About(paper="Hendrycks and Dietterich 2019, section 4.1")
    levels: ClassVar = (
        (0.0, 0.0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )

    def change(self, x: Tensor, draws: Draws) -> Tensor:
        count, _, height, width = x.shape
        alpha, sigma, pull = (min(height, width) * c for c in self.levels[self.severity - 1])
        moved = pull * (2 * draws.uniform(6).view(count, 3, 2) - 1)
        out = bilinear(x, *_pulled((height, width), moved), twice=False)
        if alpha == 0:
            return out
        shape, places = (count, 1, height, width), torch.arange(height * width)
        down, right = (
            alpha
            * blurred(2 * draws.uniform(height * width).view(shape) - 1, sigma, truncate=3,
                      border="twice")[:, 0]
            for _ in range(2)
        )  # fmt: skip
        row, column = (one.view(height, width) for one in (places // width, places % width))
        return bilinear(out, row + down, column + right, twice=True)


def _pulled(shape: Sequence[int], moved: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel comes from, rows and columns (N, H, W).

    Args:
        moved: by how much each of the three points moves: (N, 3, 2), rows and columns.
    """
    height, width = shape
    middle, reach = torch.tensor([height // 2, width // 2]), max(1, min(shape) // 3)
    points = middle + reach * torch.tensor([[1, 1], [1, -1], [-1, -1]])
    ones = torch.ones(len(moved), 3, 1, dtype=torch.float64)
    before = points.double().expand(len(moved), 3, 2)
    after = torch.cat([before + moved, ones], 2)
    back = torch.linalg.solve(after, before)  # (N, 3, 2): [row, column, 1] @ back is the source
    grid = torch.stack(
        torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), 2
    ).double()
    grid = torch.cat([grid, torch.ones(height, width, 1, dtype=torch.float64)], 2)
    source = torch.einsum("hwk,nkc->nchw", grid, back).float()
    return source[:, 0], source[:, 1]


@final
@dataclass(frozen=True, kw_only=True)
class Pixelate(Corruption):
    """Made smaller and as large again, both by Pillow's box filter, bit by bit.

    To 95, 90, 85, 75, 65 % of each side, in whole pixels.

    >>> x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> len(Pixelate(severity=5).apply(x, rng=0)[0, 0].unique(dim=0))  # 0.65 * 32
    20
    """

    about: ClassVar[About] = About(paper="Hendrycks and Dietterich 2019, section 4.1")
    levels: ClassVar = (0.95, 0.9, 0.85, 0.75, 0.65)

    def change(self, x: Tensor, draws: Draws) -> Tensor:
        share, full = self.levels[self.severity - 1], x.shape[2:]
        small = [max(1, int(size * share)) for size in full]
        for before, after in ((full, small), (small, full)):
            x = _eighth_bit(x @ _boxes(before[1], after[1]).T)
            x = _eighth_bit(_boxes(before[0], after[0]) @ x)
        return x


def _eighth_bit(x: Tensor) -> Tensor:
    """Rounded to 256 levels, half upwards, as Pillow does after each direction."""
    return (x * 255 + 0.5 + 1e-4).floor() / 255


@cache
def _boxes(before: int, after: int) -> Tensor:
    """The weights (after, before) of Pillow's box filter along one side.

    A new pixel is the mean of the old ones whose centre lies in the box of its size around its
    own centre.

    >>> _boxes(4, 2)
    tensor([[0.5000, 0.5000, 0.0000, 0.0000],
            [0.0000, 0.0000, 0.5000, 0.5000]])
    """
    scale = before / after
    box = max(1.0, scale)
    centre = (torch.arange(after).double()[:, None] + 0.5) * scale
    away = (torch.arange(before).double() + 0.5 - centre) / box
    inside = ((away > -0.5) & (away <= 0.5)).float()
    return inside / inside.sum(1, keepdim=True)


@final
@dataclass(frozen=True, kw_only=True)
class JPEGCompression(Corruption):
    """Written to a JPEG file by Pillow, and read again.

    Quality 80, 65, 58, 50, 40; chroma at half size, as Pillow does by default. A grey image is a
    grey file.

    >>> x = torch.zeros(1, 1, 8, 8); x[..., ::2] = 1
    >>> bool((JPEGCompression().apply(x, rng=0) != x).any())
    True
    """

    about: ClassVar[About] = About(paper="Hendrycks and Dietterich 2019, section 4.1")
    levels: ClassVar = (80, 65, 58, 50, 40)

    def change(self, x: Tensor, draws: Draws) -> Tensor:
        pixels = (x * 255).round().byte().permute(0, 2, 3, 1).numpy()
        shown = np.stack([_coded(image, self.levels[self.severity - 1]) for image in pixels])
        return torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255


def _coded(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """An image (H, W, C) as a file of that quality gives it back."""
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(
        file, "JPEG", quality=quality
    )
    return np.asarray(Image.open(file)).reshape(image.shape)
