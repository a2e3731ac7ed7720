"""PIHA: refuses a query whose perceptual hash is nearly that of one before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mithridate.component import About
from mithridate.defenses.guard.base import Guard
from mithridate.errors import InputError, QueriesRefused, check_number, check_whole

BLUR = torch.tensor([0.6065306597126334, 1.0, 0.6065306597126334], dtype=torch.float64)
"""A Gaussian of deviation 1, cut to three values."""
NEAR = 0.70711
"""Row and column of a diagonal neighbour at distance 1, rounded as scikit-image rounds."""
EQUAL = 1e-9
"""Differences of block sums that are rounding."""


@final
@dataclass(frozen=True, kw_only=True)
class PIHA(Guard):
    """Compares what blocks of an image are beside their neighbours (Choi et al. 2023).

    The image is blurred (Gaussian, 3 x 3, deviation 1, edges mirrored) and its hue taken; each
    block's sum is compared with those at distance 1 in eight directions (local binary pattern,
    bilinear, 0 outside), which makes a code of 8 bits. A query is refused if at most a share
    `threshold` of its codes differs from those of any image asked about before, refused ones
    included.

    Steps and values are those of the code of Feng et al. 2023 (OARS), which evaluates PIHA; what
    the paper itself leaves open was not looked up. Deviations: a grey image has no hue, and all
    would be alike: images that have not three channels are hashed by their values, their mean
    over channels; an image that is a whole number of blocks gets no further row of empty ones.

    Of colour images whose hue is the same all over, each is nearly the other. It knows one user;
    who asks about one image twice is refused, too.

    Args:
        block: side of a block in pixels, at least 1; the fewer blocks, the more images are alike.
        threshold: share, in [0, 1).

    Raises:
        InputError: a value out of range; in use, images of fewer than 4 blocks.

    >>> from torch import nn
    >>> from mithridate.classifier import Classifier
    >>> x = torch.rand((2, 3, 32, 32), generator=torch.Generator())
    >>> oracle = PIHA().wrap(Classifier(nn.Flatten(), classes=3072))
    >>> len(oracle.labels(x))
    2
    >>> oracle.labels(x[:1] * 0.999)
    Traceback (most recent call last):
    ...
    mithridate.errors.QueriesRefused: an image of nearly the same hash was asked about before
    """

    about: ClassVar[About] = About(paper="Choi et al. 2023, section 3", atlas=("AML.M0015",))

    block: int = 7
    threshold: float = 0.05

    def __post_init__(self) -> None:
        check_whole("block", self.block, low=1)
        check_number("threshold", self.threshold, low=0, high=1)
        if self.threshold == 1:
            raise InputError("threshold must be below 1, or nothing is answered")

    @classmethod
    def usual(cls, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        return {"block": 7 if min(image_shape[1:]) >= 32 else max(1, min(image_shape[1:]) // 7)}

    def watcher(self) -> Callable[[Tensor], None]:
        known: list[NDArray[np.uint8]] = []
        alike: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)

        def watch(x: Tensor) -> None:
            refused = False
            for code in self.hashes(x).numpy():
                # Of one part more than may differ, one is the same: only such are compared.
                count = 1 + sum(n / len(code) <= self.threshold for n in range(1, len(code)))
                parts = [(i, code[i::count].tobytes()) for i in range(count)]
                for row in {row for part in parts for row in alike.get(part, ())}:
                    refused |= bool((known[row] != code).mean() <= self.threshold)
                for part in parts:
                    alike[part].append(len(known))
                known.append(code)
            if refused:
                raise QueriesRefused("an image of nearly the same hash was asked about before")

        return watch

    def hashes(self, x: Tensor) -> Tensor:
        """The codes of each image (N, C, H, W), one a block: uint8 (N, B)."""
        size = self.block
        sides = [-(-side // size) for side in x.shape[2:]]
        if min(sides) < 2:
            raise InputError(
                f"images of {x.shape[2]} x {x.shape[3]} have fewer than 2 x 2 blocks of {size}: "
                "lower block"
            )
        x = x.cpu().double()
        plane = _hue(_blurred(x)) if x.shape[1] == 3 else _blurred(x.mean(1, keepdim=True))
        rest = [side * size - pixels for side, pixels in zip(sides, x.shape[2:], strict=True)]
        plane = F.pad(plane, (0, rest[1], 0, rest[0]))
        sums = F.avg_pool2d(plane, size) * size**2
        beside = F.conv2d(sums, DIRECTIONS, padding=1)
        places = 2 ** torch.arange(8)[:, None, None]
        return ((beside - sums >= -EQUAL) * places).sum(1).to(torch.uint8).flatten(1)


def _blurred(x: Tensor) -> Tensor:
    """Images (N, C, H, W), blurred; mirrored at the edges without the edge itself."""
    kernel = (BLUR[:, None] * BLUR / BLUR.sum() ** 2).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, groups=x.shape[1])


def _hue(x: Tensor) -> Tensor:
    """The hue (N, 1, H, W) of images (N, 3, H, W), in [0, 1); 0 where there is none."""
    red, green, blue = x.unbind(1)
    top, spread = x.amax(1), x.amax(1) - x.amin(1)
    gap = torch.where(spread > 0, spread, 1)
    sector = torch.where(top == green, 2 + (blue - red) / gap, 4 + (red - green) / gap)
    sector = torch.where(top == red, ((green - blue) / gap) % 6, sector)
    return torch.where(spread > 0, sector / 6, 0)[:, None]


def _directions() -> Tensor:
    """What a plane is at distance 1 in eight directions, as kernels (8, 1, 3, 3)."""
    far, here = NEAR, 1 - NEAR
    corner = torch.tensor([[far**2, far * here, 0], [far * here, here**2, 0], [0, 0, 0]])
    straight = torch.tensor([[0.0, 1, 0], [0, 0, 0], [0, 0, 0]])
    turned = [torch.rot90(one, k) for one in (corner, straight) for k in range(4)]
    return torch.stack(turned)[:, None].double()


DIRECTIONS = _directions()
