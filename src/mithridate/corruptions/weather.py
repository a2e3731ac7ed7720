"""Weather: snow, frost, fog, and the light of the day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate.component import About
from mithridate.corruptions.base import Corruption
from mithridate.corruptions.filters import enlarged, plasma, streaked
from mithridate.rng import Draws

LUMA = torch.tensor([0.299, 0.587, 0.114])
"""Shares of red, green and blue in grey (ITU-R BT.601)."""
ICE = torch.tensor([0.86, 0.95, 1.0])
"""Red, green and blue of frost at its thickest; grey images take their luminance."""


def grey(x: Tensor) -> Tensor:
    """Luminance (N, 1, H, W) of colour images; grey ones as they are."""
    return (x * LUMA[:, None, None]).sum(1, keepdim=True) if x.shape[1] == 3 else x


@final
@dataclass(frozen=True, kw_only=True)
class Snow(Corruption):
    """Flakes that fall over a whitened image: bright specks of noise, enlarged and smeared.

    Normal noise of a mean and a deviation, enlarged, kept above a threshold, and smeared within
    45 degrees of the vertical, is laid over the image twice, the second time turned by 180 degrees.
    The image itself is mixed with a whitened one, max(x, 1.5 * grey + 0.5). Mean, deviation,
    enlargement, threshold, radius and sigma of the smear in pixels, the image's own share:

    - 1: 0.1, 0.2, 1, 0.6, 8, 3, 0.95
    - 2: 0.1, 0.2, 1, 0.5, 10, 4, 0.9
    - 3: 0.15, 0.3, 1.75, 0.55, 10, 4, 0.9
    - 4: 0.25, 0.3, 2.25, 0.6, 12, 6, 0.85
    - 5: 0.3, 0.3, 1.25, 0.65, 14, 12, 0.8

    >>> x = Snow(severity=1).apply(torch.zeros(1, 3, 16, 16), rng=0)
    >>> bool((x >= 0.02).all())  # 0.05 * 0.5 everywhere, and flakes
    True
    """

    about: ClassVar[About] = About(paper="Hendrycks and Dietterich 2019, section 4.1")
    levels: ClassVar = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )

    def change(self, x: Tensor, draws: Draws) -> Tensor:
        mean, sd, factor, threshold, radius, sigma, own = self.levels[self.severity - 1]
        count, _, height, width = x.shape
        noise = mean + sd * draws.normal(height * width).view(count, 1, height, width)
        flakes = enlarged(noise, factor)
        flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
        flakes = streaked(flakes, int(radius), sigma, 90 * draws.uniform(1)[:, 0] - 135)
        white = torch.maximum(x, 1.5 * grey(x) + 0.5)
        return own * x + (1 - own) * white + flakes + flakes.flip(2, 3)


@final
@dataclass(frozen=True, kw_only=True)
class Frost(Corruption):
    """Ice on a pane in front of the image: both weighted, and added.

    Weights of image and frost: (1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45).

    Deviation: the authors lay crops of five photographs over the image, which are not shipped
    here. This frost is drawn: needles that grow from scattered seeds in three directions 60 degrees
    apart, over clouds of thinner ice, a little blue. Figures under frost are therefore ours alone,
    and not to be set beside those of CIFAR-10-C.

    >>> x = Frost(severity=1).apply(torch.zeros(1, 3, 16, 16), rng=0)
    >>> bool(0 < x.mean() < 0.2), bool(x.max() <= 0.2)
    (True, True)
    """

    about: ClassVar[About] = About(paper="Hendrycks and Dietterich 2019, section 4.1")
    levels: ClassVar = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))

    def change(self, x: Tensor, draws: Draws) -> Tensor:
        own, weight = self.levels[self.severity - 1]
        tint = ICE[:, None, None] if x.shape[1] == 3 else (ICE @ LUMA)
        return own * x + weight * frost(x, draws) * tint


def frost(x: Tensor, draws: Draws) -> Tensor:
    """How thick the ice is, in [0, 1], (N, 1, H, W), for images of the shape of x."""
    count, _, height, width = x.shape
    clouds = plasma(x.shape, 2.0, draws)
    seeds = draws.uniform(height * width).view(count, 1, height, width)
    seeds = torch.where(seeds < 0.03, 1.0, 0.0)
    angle = 60 * draws.uniform(1)[:, 0]
    needles = torch.stack(
        [
            torch.maximum(
                streaked(seeds, 6, 4.0, angle + turn), streaked(seeds, 6, 4.0, angle + turn + 180)
            )
            for turn in (0, 60, 120)
        ]
    ).amax(0)
    return (0.5 * clouds + 2 * needles).clamp(0, 1)


@final
@dataclass(frozen=True, kw_only=True)
class Fog(Corruption):
    """Clouds added to the image, and the whole darkened to the image's own brightest value.

    Clouds are a diamond-square fractal in [0, 1]. Their weight and how fast they get smooth:
    (0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75).

    >>> x = Fog().apply(torch.full((1, 1, 8, 8), 0.5), rng=0)
    >>> bool(x.max() < 0.51), bool(x.min() >= 0.2)  # 0.5, down to 0.5 * 0.5 / 1.25
    (True, True)
    """

    about: ClassVar[About] = About(paper="Hendrycks and Dietterich 2019, section 4.1")
    levels: ClassVar = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))

    def change(self, x: Tensor, draws: Draws) -> Tensor:
        weight, decay = self.levels[self.severity - 1]
        most = x.amax((1, 2, 3), keepdim=True)
        return (x + weight * plasma(x.shape, decay, draws)) * most / (most + weight)


@final
@dataclass(frozen=True, kw_only=True)
class Brightness(Corruption):
    """Value, of hue, saturation and value, raised; a grey image becomes brighter by as much.

    By 0.05, 0.1, 0.15, 0.2, 0.3, up to 1. Hue and saturation stay, so a colour is scaled to its
    new brightest channel.

    >>> x = torch.tensor([0.4, 0.2, 0.0]).view(1, 3, 1, 1)
    >>> Brightness(severity=2).apply(x, rng=0).flatten()
    tensor([0.5020, 0.2510, 0.0000])
    """

    about: ClassVar[About] = About(paper="Hendrycks and Dietterich 2019, section 4.1")
    levels: ClassVar = (0.05, 0.1, 0.15, 0.2, 0.3)

    def change(self, x: Tensor, draws: Draws) -> Tensor:
        value = x.amax(1, keepdim=True)
        raised = (value + self.levels[self.severity - 1]).clamp(max=1)
        return torch.where(value > 0, x * (raised / value.clamp(min=1 / 255)), raised)
