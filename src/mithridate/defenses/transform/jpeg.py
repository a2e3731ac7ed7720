"""JPEG: an image as it comes back from a lossy file."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mithridate.component import About
from mithridate.defenses.transform.base import Transform
from mithridate.errors import InputError, check_whole

YCBCR = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
"""From red, green, blue to luminance and two chroma, without their shift (JFIF 1.02)."""


@final
@dataclass(frozen=True, kw_only=True)
class JPEG(Transform):
    """Each image encoded and decoded by Pillow, chroma at half size (Dziugaite et al. 2016).

    Values are Pillow's own, bit by bit. Who knows the defence takes them with the gradient of an
    arithmetic that comes near: colour, blocks of 8 x 8, cosine transform, and quantisation by
    Pillow's tables with round(c) + (c - round(c))^3 for round(c) (Shin and Song 2017), mixed half
    and half with the identity. Deviation: theirs is not mixed; alone, the cube's slope, 0 where c
    is whole, left PGD 6.5 % of the digits unfooled where the mixture leaves 1.5 %.

    Args:
        quality: 1 to 95.

    Raises:
        InputError: another quality; in use, images of other than one or three channels.

    >>> x = torch.full((1, 1, 8, 8), 0.5)
    >>> JPEG().transform(x).unique()
    tensor([0.5020])
    """

    about: ClassVar[About] = About(
        paper="Dziugaite et al. 2016; gradient: Shin and Song 2017", atlas=("AML.M0010",)
    )

    quality: int = 75

    def __post_init__(self) -> None:
        check_whole("quality", self.quality, low=1, high=95)

    def transform(self, x: Tensor) -> Tensor:
        _check(x)
        pixels = (x.detach() * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        shown = [self._coded(image) for image in pixels]
        if not shown:
            return x.clone()
        out = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)
        return out.to(x.device).to(x.dtype).div(255)

    def surrogate(self, x: Tensor) -> Tensor:
        _check(x)
        if x.shape[1] == 1:
            near = _blocks(255 * x - 128, tables(self.quality)[0].to(x))
        else:
            rotate = YCBCR.to(x)
            planes = torch.einsum("kc,nchw->nkhw", rotate, 255 * x)
            light = _blocks(planes[:, :1] - 128, tables(self.quality)[0].to(x)) + 128
            size = planes.shape[2:]
            half = F.avg_pool2d(planes[:, 1:], 2, ceil_mode=True)
            colour = _blocks(half, tables(self.quality)[1].to(x))
            colour = F.interpolate(colour, scale_factor=2, mode="bilinear")[
                :, :, : size[0], : size[1]
            ]
            planes = torch.cat([light, colour], 1)
            near = torch.einsum("ck,nkhw->nchw", torch.linalg.inv(rotate), planes) - 128
        return ((near + 128) / 255 + x) / 2

    def _coded(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        grey = image.shape[2] == 1
        file = io.BytesIO()
        Image.fromarray(image[:, :, 0] if grey else image).save(file, "JPEG", quality=self.quality)
        shown = np.asarray(Image.open(file))
        return shown[:, :, None] if grey else shown


def _check(x: Tensor) -> None:
    if x.shape[1] not in (1, 3):
        raise InputError(f"jpeg takes grey or RGB images, got {x.shape[1]} channels")


@cache
def tables(quality: int) -> tuple[Tensor, Tensor]:
    """Pillow's quantisation of luminance and chroma at a quality, (8, 8) each.

    >>> tables(50)[0][0].tolist()
    [16.0, 11.0, 10.0, 16.0, 24.0, 40.0, 51.0, 61.0]
    """
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    found = Image.open(file).quantization  # type: ignore[attr-defined]
    light, colour = (torch.tensor(found[k], dtype=torch.float32).view(8, 8) for k in (0, 1))
    return light, colour


@cache
def cosines() -> Tensor:
    """The orthonormal cosine transform of 8 values as a matrix.

    >>> bool((cosines() @ cosines().T - torch.eye(8)).abs().max() < 1e-6)
    True
    """
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)
    out = torch.cos(math.pi / 8 * (n + 0.5) * k) / 2
    out[0] /= math.sqrt(2)
    return out


def _blocks(plane: Tensor, table: Tensor) -> Tensor:
    """Planes (N, C, H, W) around 0, quantised in blocks; sides are filled up by the edge."""
    height, width = plane.shape[2:]
    turn = cosines().to(plane)
    full = F.pad(plane, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = full.unfold(2, 8, 8).unfold(3, 8, 8)
    wanted = turn @ blocks @ turn.T / table
    whole = wanted.round().detach()
    back = turn.T @ ((whole + (wanted - whole) ** 3) * table) @ turn
    return back.transpose(3, 4).reshape(full.shape)[:, :, :height, :width]
