"""Pictures that triggers and poisons are given, and where in an image one lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mithridate.errors import InputError
from mithridate.poisons.base import Box


def picture(source: Tensor | str, dims: tuple[int, ...]) -> Tensor:
    """A picture as its own float copy, from a tensor or an image file.

    A file gives (1 or 3, H, W) in [0, 1]; what is transparent shows its colour.

    Args:
        dims: numbers of dimensions that are wanted.

    Raises:
        InputError: not a float tensor in [0, 1] of such dimensions; no such file, not an image,
            or one of more than 8 bits a channel.

    >>> picture(torch.ones(2, 2), dims=(2, 3)).shape
    torch.Size([2, 2])
    """
    image = _read(source) if isinstance(source, str) else source
    if not isinstance(image, Tensor) or image.dim() not in dims or image.numel() == 0:
        got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        wanted = " or ".join(map(str, dims))
        raise InputError(f"a picture is a tensor of {wanted} dimensions, got {got}")
    if not image.is_floating_point() or not bool(((image >= 0) & (image <= 1)).all()):
        raise InputError("a picture is float in [0, 1]: divide by 255 before this call")
    return image.detach().float().clone()


def _read(path: str) -> Tensor:
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
