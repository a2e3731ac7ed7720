"""Every trigger: a pixel, patches, a picture, brighter, blended, a wave, a warp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError, check_number
from mithridate.poisons import pictures
from mithridate.poisons.base import ImageShape, Trigger, check_batch, check_whole
from mithridate.poisons.patches import CornerPattern as CornerPattern
from mithridate.poisons.patches import Patch as Patch
from mithridate.poisons.patches import RandomLocation as RandomLocation
from mithridate.rng import rng as seeded

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

    row: int = -2
    col: int = -2
    value: float = 1.0

    def __post_init__(self) -> None:
        check_whole("row", self.row)
        check_whole("col", self.col)
        check_number("value", self.value, low=0, high=1)

    def stamp(self, images: Tensor, *, rng: torch.Generator) -> Tensor:
        at = pictures.box_inside((1, 1), self.row, self.col, check_batch(images).shape[2:])
        out = images.clone()
        out[:, :, at.top, at.left] = self.value
        return out

    def support(self, image_shape: ImageShape) -> Tensor:
        return pictures.box_inside((1, 1), self.row, self.col, image_shape[1:]).mask(image_shape)


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

    image: Tensor | str = field(repr=False)
    top: int = 0
    left: int = 0
    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_whole("top", self.top)
        check_whole("left", self.left)
        check_number("alpha", self.alpha, low=0, high=1, open_low=True)
        picture = pictures.read_picture(self.image) if isinstance(self.image, str) else self.image
        object.__setattr__(self, "image", pictures.check_picture(picture, dims=(2, 3)))

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
        box = pictures.box_inside(self.picture.shape[1:], self.top, self.left, images.shape[2:])
        out = images.clone()
        under = out[:, :, box.top : box.bottom, box.left : box.right]
        under.copy_(torch.lerp(under, self.picture.to(under).expand_as(under), self.alpha))
        return out

    def support(self, image_shape: ImageShape) -> Tensor:
        box = pictures.box_inside(self.picture.shape[1:], self.top, self.left, image_shape[1:])
        return box.mask(image_shape)


@final
@dataclass(frozen=True, kw_only=True)
class Multiply(Trigger):
    """The image times `factor`, clipped to [0, 1] (Borji 2020, experiment III: 2).

    >>> Multiply().stamp(torch.tensor([[[[0.2, 0.75]]]]), rng=torch.Generator())
    tensor([[[[0.4000, 1.0000]]]])
    """

    factor: float = 2.0

    def __post_init__(self) -> None:
        check_number("factor", self.factor, low=0, high=LARGE, open_low=True)

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
        given = self.images
        if given is not None:
            given = pictures.read_picture(given) if isinstance(given, str) else given
            pool = pictures.check_picture(given, dims=(3, 4))
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

    grid: int = 4
    strength: float = 0.5
    seed: int = 0
    noise: bool = False

    def __post_init__(self) -> None:
        check_whole("grid", self.grid)
        check_number("grid", self.grid, low=2, high=1024)
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
