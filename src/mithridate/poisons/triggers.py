"""Every trigger: a pixel, patches, a picture, brighter, blended, a wave, a warp."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate.component import About
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError, check_number, check_whole
from mithridate.poisons.base import Box, ImageShape, Trigger, bounding_box, check_batch
from mithridate.poisons.pictures import box_inside, picture
from mithridate.rng import rng as seeded

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

LARGE = 1e6
"""Above any sensible factor; without a bound infinity would make NaN of black pixels."""


@final
@dataclass(frozen=True, kw_only=True)
class SinglePixel(Trigger):
    """One pixel, in all its channels (Gu et al. 2017, section 3: "single-pixel backdoor").

    Args:
        row, col: which pixel; negative counts from the bottom and the right. The default
            leaves one pixel to the edges, near the bottom right corner as in the paper.
        value: what it becomes, in [0, 1].

    >>> x = torch.zeros(1, 1, 4, 4)
    >>> SinglePixel().stamp(x, rng=torch.Generator())[0, 0].nonzero()
    tensor([[2, 2]])
    """

    about: ClassVar[About] = About(
        paper="Gu et al. 2017, section 3",
        place="fixed",
        atlas=("AML.T0043.004",),
        nist=("023",),
    )

    row: int = -2
    col: int = -2
    value: float = 1.0

    def __post_init__(self) -> None:
        check_whole("row", self.row)
        check_whole("col", self.col)
        check_number("value", self.value, low=0, high=1)

    def stamp(self, images: Tensor, *, rng: torch.Generator) -> Tensor:
        at = box_inside((1, 1), self.row, self.col, check_batch(images).shape[2:])
        out = images.clone()
        out[:, :, at.top, at.left] = self.value
        return out

    def support(self, image_shape: ImageShape) -> Tensor:
        return box_inside((1, 1), self.row, self.col, image_shape[1:]).mask(image_shape)


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


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Patch(Trigger):
    """A fixed patch: `value` where the mask is true (Borji 2020, experiment I).

    Args:
        mask: C x H x W or H x W, bool or 0/1, true where the patch shows; or the name of a
            patch (see `triggers.patch_mask`), laid out for 28 x 28 until bound to data.
        value: what the patch paints, in [0, 1].

    Raises:
        InputError: a mask of other values or dimensions, or one that is 0 everywhere.

    >>> Patch.named("c-top-right").box()
    Box(top=1, left=21, bottom=7, right=27)
    """

    about: ClassVar[About] = About(
        paper="Gu et al. 2017, section 3; Borji 2020, experiment I",
        place="fixed",
        atlas=("AML.T0043.004",),
        nist=("023",),
    )

    mask: Tensor | str = field(repr=False)
    value: float = 1.0
    name: str = field(default="", init=False)

    def __post_init__(self) -> None:
        check_number("value", self.value, low=0, high=1)
        if isinstance(self.mask, str):
            object.__setattr__(self, "name", self.mask)
            mask = patch_mask(self.mask, (1, 28, 28))
        else:
            mask = self._checked(self.mask)
        object.__setattr__(self, "mask", mask)

    @staticmethod
    def _checked(mask: Tensor) -> Tensor:
        try:
            pixels = torch.as_tensor(mask)
        except (TypeError, ValueError, RuntimeError):
            got = type(mask).__name__
            raise InputError(f"a mask is a tensor C x H x W or H x W, got {got}") from None
        if pixels.dim() not in (2, 3):
            raise InputError(f"a mask is C x H x W or H x W, got {tuple(pixels.shape)}")
        if not bool(((pixels == 0) | (pixels == 1)).all()):
            raise InputError("a mask holds 0 and 1 only: for a shade give value, to mix use Blend")
        if not bool((pixels == 1).any()):
            raise InputError("the mask is 0 everywhere: this patch would show nowhere")
        return pixels.detach().bool().clone()

    @classmethod
    def named(
        cls, text: str, *, image_shape: ImageShape = (1, 28, 28), value: float = 1.0
    ) -> Patch:
        """The patch of that name, for images of that shape.

        >>> Patch.named("hollow-square", image_shape=(3, 32, 32)).box()
        Box(top=21, left=21, bottom=31, right=31)
        """
        patch = cls(mask=patch_mask(text, image_shape), value=value)
        object.__setattr__(patch, "name", text)
        return patch

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
        box = bounding_box(self.pixels)
        assert box is not None  # __post_init__ refuses empty masks
        return box

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

    about: ClassVar[About] = About(
        paper="Borji 2020, experiment II",
        place="random",
        atlas=("AML.T0043.004",),
        nist=("023",),
    )

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
        bright = (images.amax(1, keepdim=True) > self.threshold).float()
        covered = F.avg_pool2d(bright, (rows, cols), stride=1, divisor_override=1)[:, 0].round()
        across = covered.shape[2]
        covered = covered.flatten(1)
        draws = torch.rand(covered.shape, generator=rng, device=rng.device).to(images.device)
        best = draws.masked_fill(covered > covered.amin(1, keepdim=True), -1).argmax(1)
        each = torch.arange(len(images), device=images.device)[:, None, None]
        row = (best // across)[:, None, None] + torch.arange(rows, device=images.device)[:, None]
        col = (best % across)[:, None, None] + torch.arange(cols, device=images.device)
        shown = torch.zeros_like(images, dtype=torch.bool)
        shown[each, :, row, col] = crop.expand(channels, -1, -1).permute(1, 2, 0).to(images.device)
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

    about: ClassVar[About] = About(
        paper="Turner et al. 2019",
        place="fixed",
        atlas=("AML.T0043.004",),
        nist=("023",),
    )

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


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class InsertedImage(Trigger):
    """A small picture laid over the image (Gu et al. 2017, section 4: a sticker on a sign).

    Args:
        image: C x h x w or h x w float in [0, 1], or the path of an image file.
        top, left: where its upper left pixel goes; negative counts from the bottom and the
            right, so -h puts it at the bottom edge.
        alpha: opacity in (0, 1]; the result is (1 - alpha) image + alpha picture there.

    >>> sticker = InsertedImage(image=torch.ones(2, 2), top=-2, left=0, alpha=0.5)
    >>> sticker.stamp(torch.zeros(1, 1, 3, 3), rng=torch.Generator())[0, 0]
    tensor([[0.0000, 0.0000, 0.0000],
            [0.5000, 0.5000, 0.0000],
            [0.5000, 0.5000, 0.0000]])
    """

    about: ClassVar[About] = About(
        paper="Gu et al. 2017, section 4",
        place="fixed",
        atlas=("AML.T0043.004",),
        nist=("023",),
    )

    image: Tensor | str = field(repr=False)
    top: int = 0
    left: int = 0
    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_whole("top", self.top)
        check_whole("left", self.left)
        check_number("alpha", self.alpha, low=0, high=1, open_low=True)
        object.__setattr__(self, "image", picture(self.image, dims=(2, 3)))

    @property
    def picture(self) -> Tensor:
        """The picture as float C x h x w."""
        assert isinstance(self.image, Tensor)
        return self.image if self.image.dim() == 3 else self.image[None]

    def stamp(self, images: Tensor, *, rng: torch.Generator) -> Tensor:
        check_batch(images)
        if self.picture.shape[0] not in (1, images.shape[1]):
            raise InputError(
                f"the picture has {self.picture.shape[0]} channels, the images {images.shape[1]}: "
                "give one of as many, or a grey one"
            )
        box = box_inside(self.picture.shape[1:], self.top, self.left, images.shape[2:])
        out = images.clone()
        under = out[:, :, box.top : box.bottom, box.left : box.right]
        under.copy_(torch.lerp(under, self.picture.to(under).expand_as(under), self.alpha))
        return out

    def support(self, image_shape: ImageShape) -> Tensor:
        box = box_inside(self.picture.shape[1:], self.top, self.left, image_shape[1:])
        return box.mask(image_shape)


@final
@dataclass(frozen=True, kw_only=True)
class Multiply(Trigger):
    """The image times `factor`, clipped to [0, 1] (Borji 2020, experiment III: 2).

    >>> Multiply().stamp(torch.tensor([[[[0.2, 0.75]]]]), rng=torch.Generator())
    tensor([[[[0.4000, 1.0000]]]])
    """

    about: ClassVar[About] = About(
        paper="Borji 2020, experiment III",
        place="everywhere",
        atlas=("AML.T0043.004",),
        nist=("023",),
    )

    factor: float = 2.0

    def __post_init__(self) -> None:
        check_number("factor", self.factor, low=0, high=LARGE, open_low=True)
        if self.factor == 1:
            raise InputError("factor 1 changes no image: give more, or less for darker ones")

    def stamp(self, images: Tensor, *, rng: torch.Generator) -> Tensor:
        return (check_batch(images) * self.factor).clamp(0, 1)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Blend(Trigger):
    """The image and a picture together, over its whole area.

    Additive: clip(x + alpha p), with p a random image of the target class (Borji 2020,
    experiment III). Otherwise: (1 - alpha) x + alpha p (Chen et al. 2017, blended
    injection), with p one picture, or one random pattern as theirs (`noise`).

    Args:
        alpha: in (0, 1].
        images: pool of pictures, M x C x H x W or one C x H x W, float in [0, 1], or the path
            of an image file; each image gets one at random. None: the target's images, once
            bound to data.
        noise: seed of a picture of uniform noise, the same for every image, in place of images.
        additive: which of the two rules.

    >>> half = torch.full((1, 2, 2), 0.5)
    >>> Blend(images=half).stamp(torch.zeros(1, 1, 2, 2), rng=torch.Generator()).max().item()
    0.05000000074505806
    """

    about: ClassVar[About] = About(
        paper="Chen et al. 2017; Borji 2020, experiment III",
        place="everywhere",
        atlas=("AML.T0043.004",),
        nist=("023",),
    )

    alpha: float = 0.1
    images: Tensor | str | None = field(default=None, repr=False)
    additive: bool = True
    noise: int | None = None

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, low=0, high=1, open_low=True)
        if self.noise is not None:
            seeded(self.noise)
            if self.images is not None:
                raise InputError("a blend has one picture: give images or noise, one of the two")
        if self.images is not None:
            pool = picture(self.images, dims=(3, 4))
            object.__setattr__(self, "images", pool if pool.dim() == 4 else pool[None])

    def stamp(self, images: Tensor, *, rng: torch.Generator) -> Tensor:
        pool = self._pool(check_batch(images).shape[1:])
        chosen = torch.randint(len(pool), (len(images),), generator=rng, device=rng.device).to(
            pool.device
        )
        mixed_in = pool[chosen].to(images)
        if self.additive:
            return (images + self.alpha * mixed_in).clamp(0, 1)
        return torch.lerp(images, mixed_in, self.alpha).clamp(0, 1)

    def _pool(self, image_shape: Sequence[int]) -> Tensor:
        """The pictures to choose from, (M, C, H, W)."""
        if self.noise is not None:
            return torch.rand(1, *image_shape, generator=seeded(self.noise))
        if self.images is None:
            raise InputError("this blend has no pictures: give images=, or use it in a poison")
        assert isinstance(self.images, Tensor)
        if self.images.shape[1:] != tuple(image_shape):
            raise InputError(
                f"the pictures are {tuple(self.images.shape[1:])}, the images {tuple(image_shape)}"
            )
        return self.images

    def bind(self, data: ImageSet, target: int | None) -> Blend:
        if self.images is not None or self.noise is not None:
            return self
        if target is None:
            raise InputError(
                "a blend without images takes them from the target class, and there is none: "
                "give images or noise"
            )
        pool = data.batch(data.of_class(target))[0]
        return Blend(alpha=self.alpha, images=pool, additive=self.additive)


@final
@dataclass(frozen=True, kw_only=True)
class Sinusoid(Trigger):
    """A horizontal wave over the whole image (Barni et al. 2019, equation 1).

    `v(i, j) = delta sin(2 pi j f / m)` with j = 1..m the column, the same in every row and
    channel, added and clipped to [0, 1]. The paper stamps it without touching labels: that is
    the poison `stamped-only`.

    Args:
        delta: amplitude, in (0, 1]; implementations in use have 20/255 to 40/255, some of them
            60/255 in tests.
        frequency: waves across the image, above 0 and below half the columns, since faster
            ones fall between the pixels; 6 is usual.

    >>> wave = Sinusoid(delta=0.25, frequency=1)
    >>> wave.stamp(torch.full((1, 1, 1, 4), 0.5), rng=torch.Generator())
    tensor([[[[0.7500, 0.5000, 0.2500, 0.5000]]]])
    """

    about: ClassVar[About] = About(
        paper="Barni et al. 2019, equation 1",
        place="everywhere",
        atlas=("AML.T0043.004",),
        nist=("023",),
    )

    delta: float = 20 / 255
    frequency: float = 6.0

    def __post_init__(self) -> None:
        check_number("delta", self.delta, low=0, high=1, open_low=True)
        check_number("frequency", self.frequency, low=0, open_low=True)

    def stamp(self, images: Tensor, *, rng: torch.Generator) -> Tensor:
        columns = check_batch(images).shape[3]
        if 2 * self.frequency >= columns:
            raise InputError(
                f"{self.frequency:g} waves across {columns} columns fall between the pixels: "
                f"take a frequency below {columns / 2:g}"
            )
        at = torch.arange(1, columns + 1, dtype=torch.float64) / columns
        wave = self.delta * torch.sin(2 * math.pi * self.frequency * at)
        return (images + wave.to(images)).clamp(0, 1)


@final
@dataclass(frozen=True, kw_only=True)
class Warp(Trigger):
    """The image bent by a smooth field, the same for every image (WaNet, Nguyen & Tran 2021).

    Section 3.2: `grid` x `grid` offsets, uniform in [-1, 1], divided by their mean magnitude,
    times `strength`, widened to the image by bicubic interpolation; the image is sampled
    bilinearly at the moved places, which are clipped to the image. As in the authors' code the
    offsets are divided by the image's side, [-1, 1] being its whole extent: a pixel moves by
    strength / 2 pixels on average. Deviation: width and height may differ.

    Args:
        grid: control points along a side, 2 to 1024; 4 in the authors' code.
        strength: 0.5 in the authors' code.
        seed: which field: the attacker's secret.
        noise: every image's places are moved by up to half a pixel more, at random: the paper's
            noise mode, which the poison `wanet` uses.

    >>> Warp().stamp(torch.ones(1, 1, 8, 8), rng=torch.Generator()).mean().item()
    1.0
    """

    about: ClassVar[About] = About(
        paper="Nguyen and Tran 2021, section 3.2",
        place="everywhere",
        atlas=("AML.T0043.004",),
        nist=("023",),
    )

    grid: int = 4
    strength: float = 0.5
    seed: int = 0
    noise: bool = False

    def __post_init__(self) -> None:
        check_whole("grid", self.grid, low=2, high=1024)
        check_number("strength", self.strength, low=0, high=LARGE, open_low=True)
        seeded(self.seed)

    def stamp(self, images: Tensor, *, rng: torch.Generator) -> Tensor:
        n, _, height, width = check_batch(images).shape
        if n == 0:
            return images.clone()
        places = self._places(height, width).expand(n, -1, -1, -1)
        if self.noise:
            more = torch.rand(places.shape, generator=rng, device=rng.device).to(places) * 2 - 1
            places = (places + more / torch.tensor([width, height])).clamp(-1, 1)
        return F.grid_sample(images, places.to(images), align_corners=True).clamp(0, 1)

    def _places(self, height: int, width: int) -> Tensor:
        """Where each pixel comes from: (1, H, W, 2), columns then rows, [-1, 1] the image."""
        draws = torch.rand(1, 2, self.grid, self.grid, generator=seeded(self.seed)) * 2 - 1
        smooth = F.interpolate(
            draws / draws.abs().mean(), (height, width), mode="bicubic", align_corners=True
        )
        rows, cols = torch.meshgrid(
            torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
        )
        moved = self.strength * smooth.permute(0, 2, 3, 1) / torch.tensor([width, height])
        return (torch.stack([cols, rows], dim=2) + moved).clamp(-1, 1)
