"""Blur: out of focus, behind frosted glass, moving, zooming."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate.component import About
from mithridate.corruptions.base import Corruption
from mithridate.corruptions.filters import (
    blurred,
    enlarged,
    filtered,
    gathered,
    gaussian_weights,
    streaked,
)
from mithridate.rng import Draws


@final
@dataclass(frozen=True, kw_only=True)
class DefocusBlur(Corruption):
    """The mean over a disk whose rim is softened by a Gaussian of 3 x 3 pixels.

    Radius of the disk and sigma of the rim, in pixels: (0.3, 0.4), (0.4, 0.5), (0.5, 0.6),
    (1, 0.2), (1.5, 0.1). Below radius 1 the disk is one pixel, and what blurs is the Gaussian.

    >>> x = torch.zeros(1, 1, 5, 5); x[0, 0, 2, 2] = 1
    >>> (DefocusBlur(severity=4).apply(x, rng=0) > 0.1).sum()  # a pixel and its four neighbours
    tensor(5)
    """

    about: ClassVar[About] = About(paper="Hendrycks and Dietterich 2019, section 4.1")
    levels: ClassVar = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))

    def change(self, x: Tensor, draws: Draws) -> Tensor:
        return filtered(x, _disk(*self.levels[self.severity - 1]), "once")


def _disk(radius: float, sigma: float) -> Tensor:
    """The kernel, (2 r + 3, 2 r + 3) of the whole part r of the radius, of sum 1."""
    side = torch.arange(-int(radius) - 2, int(radius) + 3)  # so that no border is met
    disk = (side[:, None] ** 2 + side**2 <= radius**2).double()
    rim = gaussian_weights(sigma, 1)
    soft = filtered((disk / disk.sum())[None, None], rim[:, None] * rim, "once")
    return soft[0, 0, 1:-1, 1:-1]


@final
@dataclass(frozen=True, kw_only=True)
class GlassBlur(Corruption):
    """Blurred a little, pixels exchanged with a neighbour's at random, and blurred again.

    Sigma of both blurs and rounds of the exchange: (0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2),
    (0.4, 2). In a round every pixel, but those of the first two rows and columns, takes the value
    of the one to its upper left, above, to its left or of itself, each as likely. The paper speaks
    of shuffling; the authors' program exchanges two views of one array, so that the neighbour
    keeps its own value, and the published images are such.

    >>> GlassBlur(severity=5).apply(torch.full((1, 3, 8, 8), 0.2), rng=0).unique()
    tensor([0.2000])
    """

    about: ClassVar[About] = About(paper="Hendrycks and Dietterich 2019, section 4.1")
    levels: ClassVar = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))

    def change(self, x: Tensor, draws: Draws) -> Tensor:
        sigma, rounds = self.levels[self.severity - 1]
        height, width = x.shape[2:]
        out = (blurred(x, sigma) * 255 + 1e-3).floor() / 255
        row, column = torch.arange(height)[:, None], torch.arange(width)
        inside = (row > 1) & (column > 1)
        for _ in range(rounds):
            up, left = (
                inside & (draws.uniform(height * width).view(-1, height, width) < 0.5)
                for _ in range(2)
            )
            out = gathered(out, (row - up.long()) * width + column - left.long())
        return blurred(out, sigma)


@final
@dataclass(frozen=True, kw_only=True)
class MotionBlur(Corruption):
    """Smeared in one direction, within 45 degrees of the horizontal, by half a Gaussian.

    Radius and sigma in pixels: (6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5).

    >>> x = MotionBlur().apply(torch.eye(8)[None, None], rng=0)
    >>> bool(x.mean() > 0), bool(x.max() < 1)
    (True, True)
    """

    about: ClassVar[About] = About(paper="Hendrycks and Dietterich 2019, section 4.1")
    levels: ClassVar = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))

    def change(self, x: Tensor, draws: Draws) -> Tensor:
        radius, sigma = self.levels[self.severity - 1]
        return streaked(x, radius, sigma, 90 * draws.uniform(1)[:, 0] - 45)


@final
@dataclass(frozen=True, kw_only=True)
class ZoomBlur(Corruption):
    """The mean of the image and of its middle enlarged by 1.00, 1.01, 1.02 and so on.

    7, 12, 16, 21, 26 enlargements, so up to 1.06, 1.11, 1.15, 1.20, 1.25 (the authors' first two
    lists end one step later by the rounding of their step). The middle is cut at whole pixels: at
    8 x 8 the first enlargement that changes anything is 1.15, and severities 1 and 2 change
    nothing.

    >>> ZoomBlur(severity=1).apply(torch.eye(8)[None, None], rng=0)[0, 0].equal(torch.eye(8))
    True
    """

    about: ClassVar[About] = About(paper="Hendrycks and Dietterich 2019, section 4.1")
    levels: ClassVar = (7, 12, 16, 21, 26)

    def change(self, x: Tensor, draws: Draws) -> Tensor:
        count = self.levels[self.severity - 1]
        total = x.clone()
        for k in range(count):
            total += enlarged(x, 1 + k / 100)
        return total / (count + 1)
