"""What a corruption is, and how the images of a set are corrupted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mithridate.classifier import check_images
from mithridate.component import Component, create, name_of
from mithridate.data import ImageSet
from mithridate.data.store import build_store
from mithridate.data.valid import Rows, row_numbers
from mithridate.errors import InputError, check_whole
from mithridate.rng import Draws, Random, as_generator, by_row, child

CHUNK = 2**21
"""Values of images that are corrupted at once."""


@dataclass(frozen=True, kw_only=True)
class Corruption(Component, ABC):
    """What an image suffers that nobody means it to: noise, blur, weather, a file's format.

    The parameters of a severity are those of CIFAR-10-C, as the authors' `make_cifar_c.py` has
    them (github.com/hendrycks/robustness), where one stands for each severity from 1 to 5.
    Lengths in pixels are meant for 32 x 32 and stay as they are for images of another size; a
    share of the side stays a share.

    Attributes:
        levels: what each severity means, from 1 on.

    Args:
        severity: 1 to 5.

    Raises:
        InputError: another severity.
    """

    levels: ClassVar[tuple[Any, ...]]

    severity: int = 3

    def __post_init__(self) -> None:
        check_whole("severity", self.severity, low=1, high=len(self.levels))

    @abstractmethod
    def change(self, x: Tensor, draws: Draws) -> Tensor:
        """Images (N, C, H, W) in [0, 1], C 1 or 3, whole grey levels, to images alike.

        What comes out may lie outside [0, 1]: the caller clips and rounds it. x is not changed.

        Args:
            draws: random numbers for each image, the only ones to use.
        """

    @final
    def apply(self, x: Tensor, *, rng: Random, rows: Tensor | None = None) -> Tensor:
        """Corrupted images, whole grey levels in [0, 1], float32 as `x`.

        An image's random numbers are those of the seed, the corruption, the severity and its
        row, so it comes out the same in a batch of any size.

        Args:
            x: (N, C, H, W) in [0, 1], C 1 or 3; rounded to whole grey levels first.
            rng: a generator, or a seed.
            rows: the images' numbers in a larger set, int64 (N,); from 0 where None.

        Raises:
            InputError: images of other than one or three channels, or outside [0, 1].
        """
        check_images(x)
        if x.shape[1] not in (1, 3):
            raise InputError(f"corruptions take grey or RGB images, got {x.shape[1]} channels")
        if len(x) == 0:
            return x.clone()
        rows = torch.arange(len(x)) if rows is None else rows
        stream = child(rng, "corruption", name_of(self), self.severity, rows=rows)
        whole = (x * 255).round() / 255
        changed = self.change(whole.cpu(), by_row(stream, len(x)))
        return ((changed.clamp(0, 1) * 255).round() / 255).to(x)


def corrupt(
    data: ImageSet,
    corruption: str | Corruption,
    *,
    severity: int | None = None,
    rng: Random,
    rows: Rows | None = None,
) -> ImageSet:
    """The same images, corrupted, with the same labels.

    After Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common
    Corruptions and Perturbations". Deviation: pixels are rounded to the nearest of 256 levels;
    the authors cut what lies between two.

    Args:
        data: grey or RGB images of any size.
        corruption: a name, such as "fog" or "gaussian-noise" ("gaussian_noise" is the same), or
            one of `mi.corruptions`.
        severity: 1 to 5; by default the corruption's own, 3 for a name.
        rng: a generator, or a seed: the same seed corrupts the image of a row alike, whatever
            other rows the set has.
        rows: only these images, in this order, each as it is in the whole set; all where None.

    Raises:
        InputError: no set, no such corruption, another severity, rows that the set does not have,
            or images of other than one or three channels.

    >>> data = ImageSet(torch.full((2, 1, 4, 4), 51).byte(), [0, 1], ["a", "b"], "set")
    >>> foggy = corrupt(data, "brightness", severity=4, rng=0)
    >>> foggy.name, foggy.raw([0])[0, 0, 0].tolist()  # 0.2 + 0.2
    ('set brightness 4', [102, 102, 102, 102])
    """
    if not isinstance(data, ImageSet):
        raise InputError(
            f"corrupt takes an ImageSet (mi.load_data gives two), got {type(data).__name__}; "
            "images alone: mi.corruptions.Fog(severity=3).apply(x, rng=0)"
        )
    made = named(corruption, severity)
    seed = as_generator(rng)
    name = f"{data.name} {name_of(made)} {made.severity}"
    every = row_numbers(slice(None) if rows is None else rows, len(data), data.name)
    parts = torch.split(every, max(1, CHUNK // prod(data.image_shape)))

    def chunks() -> Iterator[NDArray[np.uint8]]:
        for part in parts:
            x = made.apply(data.batch(part)[0], rng=seed, rows=part)
            yield (x * 255).round().byte().numpy()

    store = build_store(chunks(), len(every), what=name)
    return ImageSet(store, data.labels[every], data.class_names, name)


def named(corruption: str | Corruption, severity: int | None = None) -> Corruption:
    """A corruption by its name, in which "_" is as good as "-".

    Raises:
        InputError: no such name or severity.

    >>> named("shot_noise", 2)
    ShotNoise(severity=2)
    """
    own = {} if severity is None else {"severity": severity}
    if isinstance(corruption, Corruption):
        return replace(corruption, **own)
    if not isinstance(corruption, str):
        raise InputError(
            f"a corruption is a name (mithridate list corruptions) or one of mi.corruptions, got "
            f"{corruption!r}"
        )
    made: Corruption = create("corruptions", corruption.replace("_", "-").lower(), own)
    return made
