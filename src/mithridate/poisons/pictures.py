"""Pictures for triggers: checking one, reading one from a file, finding blank room for one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate.errors import InputError
from mithridate.poisons.base import Box


def check_picture(image: Tensor, dims: tuple[int, int]) -> Tensor:
    """A picture as its own float copy.

    Raises:
        InputError: not a float tensor in [0, 1] with one of the two numbers of dimensions.

    >>> check_picture(torch.ones(2, 2), dims=(2, 3)).shape
    torch.Size([2, 2])
    """
    if not isinstance(image, Tensor) or image.dim() not in dims or image.numel() == 0:
        got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        wanted = " or ".join(map(str, sorted(set(dims))))
        raise InputError(f"a picture is a tensor of {wanted} dimensions, got {got}")
    if not image.is_floating_point() or not bool(((image >= 0) & (image <= 1)).all()):
        raise InputError("a picture is float in [0, 1]: divide by 255 before this call")
    return image.detach().float().clone()


def read_picture(path: str) -> Tensor:
    """An image file as float (1 or 3, H, W) in [0, 1]; what is transparent shows its colour.

    Raises:
        InputError: no such file, not an image, or one of more than 8 bits a channel.

    >>> read_picture("none.png")
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: no image file none.png
    """
    from PIL import Image  # only pictures from files need it

    if not Path(path).is_file():
        raise InputError(f"no image file {path}")
    try:
        with Image.open(path) as opened:
            if opened.mode.startswith(("I", "F")):  # convert would clip them to 0..255
                raise InputError(
                    f"{path} has mode {opened.mode}, more than 8 bits a channel: convert it to "
                    "8-bit grey or RGB"
                )
            pixels = np.asarray(opened.convert("L" if opened.mode in ("1", "L", "LA") else "RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from None
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(planes.astype(np.float32) / 255)


def box_inside(size: Sequence[int], top: int, left: int, image: Sequence[int]) -> Box:
    """Where a picture of `size` lies in an image (H, W); negative places count from the end.

    Raises:
        InputError: it does not fit.

    >>> box_inside((2, 2), -2, 0, (8, 8))
    Box(top=6, left=0, bottom=8, right=2)
    """
    first_row = top + image[0] if top < 0 else top
    first_col = left + image[1] if left < 0 else left
    box = Box(first_row, first_col, first_row + size[0], first_col + size[1])
    if min(box) < 0 or box.bottom > image[0] or box.right > image[1]:
        raise InputError(
            f"a picture of {size[0]} x {size[1]} at ({top}, {left}) does not fit into an image "
            f"of {image[0]} x {image[1]}"
        )
    return box


def blank_places(
    images: Tensor, size: tuple[int, int], threshold: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """For each image a random place where a rectangle covers as few bright pixels as can be.

    Args:
        images: (N, C, H, W), N at least 1.
        size: rows and columns of the rectangle.
        threshold: a pixel is bright where any channel is above this.

    Returns:
        Upper left corners, rows (N,) and columns (N,), uniform among the best places.

    >>> x = torch.tensor([[[[0.0, 0.0, 1.0]]]])
    >>> blank_places(x, (1, 2), 0.5, torch.Generator())
    (tensor([0]), tensor([0]))
    """
    bright = (images.amax(1, keepdim=True) > threshold).float()
    covered = F.avg_pool2d(bright, size, stride=1, divisor_override=1)[:, 0].round()
    across = covered.shape[2]
    covered = covered.flatten(1)
    draws = torch.rand(covered.shape, generator=rng, device=rng.device).to(images.device)
    best = draws.masked_fill(covered > covered.amin(1, keepdim=True), -1).argmax(1)
    return best // across, best % across


def paste_mask(crop: Tensor, top: Tensor, left: Tensor, like: Tensor) -> Tensor:
    """Bool masks shaped as `like` (N, C, H, W) that are `crop` (C, h, w) at each place.

    >>> at = torch.tensor([0]), torch.tensor([1])
    >>> paste_mask(torch.ones(1, 1, 2).bool(), *at, torch.zeros(1, 1, 1, 3))
    tensor([[[[False,  True,  True]]]])
    """
    rows, cols = crop.shape[1:]
    r = top[:, None, None] + torch.arange(rows, device=like.device)[None, :, None]
    c = left[:, None, None] + torch.arange(cols, device=like.device)[None, None, :]
    n = torch.arange(len(like), device=like.device)[:, None, None]
    out = torch.zeros_like(like, dtype=torch.bool)
    out[n, :, r, c] = crop.permute(1, 2, 0).to(like.device)
    return out
