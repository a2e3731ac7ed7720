"""Triggers: a pixel, a patch, a picture, a patch anywhere off the object, brighter, blended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError, check_number
from mithridate.poisons import pictures
from mithridate.poisons.base import ImageShape, Trigger, check_batch, check_whole
from mithridate.poisons.patches import Patch as Patch
from mithridate.poisons.patches import RandomLocation as RandomLocation


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
                f"the picture has {self.picture.shape[0]} channels, the images {images.shape[1]}"
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
        check_number("factor", self.factor, low=0, open_low=True)

    def stamp(self, images: Tensor, *, rng: torch.Generator) -> Tensor:
        return (check_batch(images) * self.factor).clamp(0, 1)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Blend(Trigger):
    """The image and a picture together, over its whole area.

    Additive: clip(x + alpha p), with p a random image of the target class (Borji 2020,
    experiment III). Otherwise: (1 - alpha) x + alpha p (Chen et al. 2017, blended
    injection).

    Args:
        alpha: in (0, 1].
        images: pool of pictures, M x C x H x W or one C x H x W, float in [0, 1]; each image
            gets one at random. None: the target's images, once bound to data.
        additive: which of the two rules.

    >>> half = torch.full((1, 2, 2), 0.5)
    >>> Blend(images=half).stamp(torch.zeros(1, 1, 2, 2), rng=torch.Generator()).max().item()
    0.05000000074505806
    """

    alpha: float = 0.1
    images: Tensor | None = field(default=None, repr=False)
    additive: bool = True

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, low=0, high=1, open_low=True)
        if self.images is not None:
            pool = pictures.check_picture(self.images, dims=(3, 4))
            object.__setattr__(self, "images", pool if pool.dim() == 4 else pool[None])

    def stamp(self, images: Tensor, *, rng: torch.Generator) -> Tensor:
        check_batch(images)
        if self.images is None:
            raise InputError("this blend has no pictures: give images=, or use it in a poison")
        if self.images.shape[1:] != images.shape[1:]:
            raise InputError(
                f"the pictures are {tuple(self.images.shape[1:])}, "
                f"the images {tuple(images.shape[1:])}"
            )
        chosen = torch.randint(
            len(self.images), (len(images),), generator=rng, device=rng.device
        ).to(self.images.device)
        mixed_in = self.images[chosen].to(images)
        if self.additive:
            return (images + self.alpha * mixed_in).clamp(0, 1)
        return torch.lerp(images, mixed_in, self.alpha).clamp(0, 1)

    def bind(self, data: ImageSet, target: int | None) -> Blend:
        if self.images is not None:
            return self
        if target is None:
            raise InputError("a blend without images takes them from the target class: give one")
        pool = data.batch(data.of_class(target))[0]
        return Blend(alpha=self.alpha, images=pool, additive=self.additive)
