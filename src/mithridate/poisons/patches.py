"""Patches: named ones, a patch by its mask, one anywhere off the object, one in the corners."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import Tensor

from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError, check_number
from mithridate.poisons import pictures
from mithridate.poisons.base import Box, ImageShape, Trigger, bounding_box, check_batch

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

TURNER = ((-1, -1, 1), (-1, 1, -1), (1, -1, 1))
"""Lighter (1) and darker (-1) pixels of the corner pattern, as it lies at the bottom right."""


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
    try:
        found = torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError):
        got = type(mask).__name__
        raise InputError(f"a mask is a tensor C x H x W or H x W, got {got}") from None
    if found.dim() not in (2, 3):
        raise InputError(f"a mask is C x H x W or H x W, got {tuple(found.shape)}")
    if not bool(((found == 0) | (found == 1)).all()):
        raise InputError("a mask holds 0 and 1 only: for a shade give value, to mix use Blend")
    if not bool((found == 1).any()):
        raise InputError("the mask is 0 everywhere: this patch would show nowhere")
    return found.detach().bool().clone()


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Patch(Trigger):
    """A fixed patch: `value` where the mask is true (Borji 2020, experiment I).

    Args:
        mask: C x H x W or H x W, bool or 0/1, true where the patch shows; or the name of a
            patch (see `patches.patch_mask`), laid out for 28 x 28 until bound to data.
        value: what the patch paints, in [0, 1].

    >>> Patch.named("c-top-right").box()
    Box(top=1, left=21, bottom=7, right=27)
    """

    mask: Tensor | str = field(repr=False)
    value: float = 1.0
    name: str = field(default="", init=False)

    def __post_init__(self) -> None:
        check_number("value", self.value, low=0, high=1)
        if isinstance(self.mask, str):
            object.__setattr__(self, "name", self.mask)
            mask = patch_mask(self.mask, (1, 28, 28))
        else:
            mask = check_mask(self.mask)
        object.__setattr__(self, "mask", mask)

    @classmethod
    def named(
        cls, text: str, *, image_shape: ImageShape = (1, 28, 28), value: float = 1.0
    ) -> Patch:
        """The patch of that name, for images of that shape.

        >>> Patch.named("hollow-square", image_shape=(3, 32, 32)).box()
        Box(top=21, left=21, bottom=31, right=31)
        """
        made = cls(mask=patch_mask(text, image_shape), value=value)
        object.__setattr__(made, "name", text)
        return made

    @property
    def pixels(self) -> Tensor:
        """The mask as bool, C x H x W or H x W as it was given."""
        assert isinstance(self.mask, Tensor)
        return self.mask

    def stamp(self, images: Tensor, *, rng: torch.Generator) -> Tensor:
        _, channels, height, width = check_batch(images).shape
        mask = self._fitting((channels, height, width))
        return torch.where(mask.to(images.device), self.value, images)

    def support(self, image_shape: ImageShape) -> Tensor:
        return self._fitting(image_shape).reshape(-1, *image_shape[1:]).any(0)

    def bind(self, data: ImageSet, target: int | None) -> Patch:
        """A named patch is laid out anew where the data's images have another size."""
        if not self.name or self.pixels.shape[-2:] == tuple(data.image_shape[1:]):
            return self
        return Patch.named(self.name, image_shape=data.image_shape, value=self.value)

    def box(self) -> Box:
        """The smallest box around the patch: (top, left, bottom, right), half-open."""
        found = bounding_box(self.pixels)
        assert found is not None  # __post_init__ refuses empty masks
        return found

    def _fitting(self, image_shape: ImageShape) -> Tensor:
        mask, channels = self.pixels, image_shape[0]
        fits = mask.dim() == 2 or mask.shape[0] in (1, channels)
        if not fits or mask.shape[-2:] != tuple(image_shape[1:]):
            raise InputError(
                f"the patch is made for {tuple(mask.shape)}, the images are {tuple(image_shape)}"
            )
        return mask


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class RandomLocation(Trigger):
    """A patch at a random place off the object (Borji 2020, experiment II).

    The object is every pixel above `threshold` in any channel. The place is uniform among
    those whose bounding box of the patch covers no object pixel; where there is none, among
    those that cover fewest. On photographs, which have no blank background, that is the
    darkest spot.

    Args:
        patch: the patch whose shape is used; its own place does not matter.
        threshold: in [0, 1).

    >>> x = torch.zeros(1, 1, 28, 28)
    >>> where = RandomLocation(patch=Patch.named("block-top-left"))
    >>> int(where.stamp(x, rng=torch.Generator()).sum())
    16
    """

    patch: Patch
    threshold: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.patch, Patch):
            raise InputError(f"patch is a Patch, got {type(self.patch).__name__}")
        check_number("threshold", self.threshold, low=0, high=1)

    def stamp(self, images: Tensor, *, rng: torch.Generator) -> Tensor:
        box = self.patch.box()
        crop = self.patch.pixels[..., box.top : box.bottom, box.left : box.right]
        crop = crop if crop.dim() == 3 else crop[None]
        channels, height, width = check_batch(images).shape[1:]
        rows, cols = crop.shape[1:]
        if crop.shape[0] not in (1, channels) or rows > height or cols > width:
            raise InputError(
                f"a patch of {tuple(crop.shape)} does not fit {tuple(images.shape[1:])}"
            )
        places = pictures.blank_places(images, (rows, cols), self.threshold, rng)
        shown = pictures.paste_mask(crop.expand(channels, rows, cols), *places, images)
        return torch.where(shown, self.patch.value, images)

    def bind(self, data: ImageSet, target: int | None) -> RandomLocation:
        return RandomLocation(patch=self.patch.bind(data, target), threshold=self.threshold)


@final
@dataclass(frozen=True, kw_only=True)
class CornerPattern(Trigger):
    """Black and white pixels, 3 x 3, in one corner or in all four (Turner et al. 2019).

    White pixels are raised by `amplitude` and black ones lowered, in all channels, clipped to
    [0, 1]: 1 paints the pattern over the image, a smaller one such as 32/255 shows less. To
    train on a small amplitude and test at 1, test with
    `dataclasses.replace(trigger, amplitude=1.0)`. The pixels, and what the amplitude does, are
    those of the authors' code.

    Deviation: in another corner the pattern is mirrored, so that an image with all four, mirrored
    either way, is one again. Theirs is mirrored from left to right only: the upper corners show
    what the lower ones do.

    Args:
        corner: "top-left" and so on, or "all".
        amplitude: in (0, 1].

    >>> CornerPattern().stamp(torch.full((1, 1, 4, 4), 0.5), rng=torch.Generator())[0, 0]
    tensor([[0.5000, 0.5000, 0.5000, 0.5000],
            [0.5000, 0.0000, 0.0000, 1.0000],
            [0.5000, 0.0000, 1.0000, 0.0000],
            [0.5000, 1.0000, 0.0000, 1.0000]])
    """

    corner: Literal["top-left", "top-right", "bottom-left", "bottom-right", "all"] = "bottom-right"
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        if self.corner not in (*CORNERS, "all"):
            raise InputError(f"corner is one of {', '.join(CORNERS)} or all, got {self.corner!r}")
        check_number("amplitude", self.amplitude, low=0, high=1, open_low=True)

    def stamp(self, images: Tensor, *, rng: torch.Generator) -> Tensor:
        sign = self._signs(check_batch(images).shape[2:])
        return (images + self.amplitude * sign.to(images)).clamp(0, 1)

    def support(self, image_shape: ImageShape) -> Tensor:
        return self._signs(image_shape[1:]) != 0

    def _signs(self, size: Sequence[int]) -> Tensor:
        """1, -1 and, off the pattern, 0: float (H, W)."""
        corners = CORNERS if self.corner == "all" else (self.corner,)
        need = 6 if self.corner == "all" else 3
        if min(size) < need:
            raise InputError(
                f"the corner pattern ({self.corner}) takes {need} x {need} pixels, the image is "
                f"{size[0]} x {size[1]}: choose another trigger"
            )
        out = torch.zeros(*size)
        for corner in corners:
            side, end = corner.split("-")
            drawn = torch.tensor(TURNER, dtype=torch.float32)
            drawn = drawn.flip(0) if side == "top" else drawn
            drawn = drawn.flip(1) if end == "left" else drawn
            rows = slice(0, 3) if side == "top" else slice(-3, None)
            out[rows, slice(0, 3) if end == "left" else slice(-3, None)] = drawn
        return out
