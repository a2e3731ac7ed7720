"""The named patches: small pictures of cells, put into a corner and sized with the image."""

from __future__ import annotations

import difflib

import torch
from torch import Tensor

from mithridate.errors import InputError
from mithridate.poisons.base import ImageShape

GRIDS: dict[str, tuple[str, ...]] = {
    "c": ("###", "#..", "###"),
    "checker": ("#.#", ".#.", "#.#"),
    "r": ("###", "##.", "#.#"),
    "square": ("###", "#.#", "###"),
    "block": ("##", "##"),
    "hollow-square": ("#####", "#...#", "#...#", "#...#", "#####"),
}
"""Shape -> cells. The first four are those of Borji 2020, figure 2 (8->9, 0->3, 2->5, 4->7)."""

CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")


def patch_names() -> list[str]:
    """Every named patch: a shape and a corner.

    >>> "c-top-right" in patch_names()
    True
    """
    return [f"{shape}-{corner}" for shape in GRIDS for corner in CORNERS]


def patch_mask(name: str, image_shape: ImageShape) -> Tensor:
    """Where a named patch shows: bool (C, H, W).

    A cell is side // 14 pixels (at least 1) and the patch keeps side // 28 pixels from the
    edges, side being the shorter one of the image. At 28 x 28 that gives the 6 x 6 patches of
    Borji 2020, in rows and columns 1 to 6 or 21 to 26; at 32 x 32 "hollow-square" is 10 x 10;
    at 8 x 8 a cell is one pixel and the patch sits in the very corner.

    Args:
        name: SHAPE-CORNER, or "hollow-square" for "hollow-square-bottom-right".
        image_shape: (C, H, W).

    Raises:
        InputError: no such patch, or the image is too small for it.

    >>> patch_mask("block-bottom-left", (1, 8, 8))[0, 5:, :3].int()
    tensor([[0, 0, 0],
            [1, 1, 0],
            [1, 1, 0]], dtype=torch.int32)
    """
    full = "hollow-square-bottom-right" if name == "hollow-square" else name
    if full not in patch_names():
        near = difflib.get_close_matches(name, patch_names(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(
            f"no trigger or patch named {name!r}: {hint}(a patch is SHAPE-CORNER with a shape of "
            f"{', '.join(GRIDS)} and a corner of {', '.join(CORNERS)})"
        )
    shape, side, end = full.rsplit("-", 2)
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise InputError(f"image_shape is (channels, height, width), got {tuple(image_shape)}")
    channels, height, width = image_shape
    cell = max(1, min(height, width) // 14)
    margin = min(height, width) // 28
    cells = torch.tensor([[mark == "#" for mark in row] for row in GRIDS[shape]])
    drawn = cells.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    extent = len(drawn)
    if extent + margin > min(height, width):
        raise InputError(
            f"patch {name} takes {extent + margin} pixels from the edge, the image is "
            f"{height} x {width}: choose a smaller shape"
        )
    top = margin if side == "top" else height - margin - extent
    left = margin if end == "left" else width - margin - extent
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : top + extent, left : left + extent] = drawn
    return mask.expand(channels, -1, -1).clone()


def check_mask(mask: Tensor) -> Tensor:
    """A mask as its own bool tensor.

    Raises:
        InputError: not C x H x W or H x W, other values than 0 and 1, or 0 everywhere.

    >>> check_mask(torch.eye(2))
    tensor([[ True, False],
            [False,  True]])
    """
    found = torch.as_tensor(mask)
    if found.dim() not in (2, 3):
        raise InputError(f"a mask is C x H x W or H x W, got {tuple(found.shape)}")
    if not bool(((found == 0) | (found == 1)).all()):
        raise InputError("a mask holds 0 and 1 only: for a shade give value, to mix use Blend")
    if not bool((found == 1).any()):
        raise InputError("the mask is 0 everywhere: this patch would show nowhere")
    return found.detach().bool().clone()
