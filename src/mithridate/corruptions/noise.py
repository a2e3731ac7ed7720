"""Noise: of a sensor, of few photons, of bits that flip."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import poisson
from torch import Tensor

from mithridate.component import About
from mithridate.corruptions.base import Corruption
from mithridate.rng import Draws


@final
@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Corruption):
    """A normal number added to every value, as a sensor in low light adds it.

    Standard deviation 0.04, 0.06, 0.08, 0.09, 0.10.

    >>> GaussianNoise(severity=1).apply(torch.full((1, 1, 50, 50), 0.5), rng=0).std()
    tensor(0.0391)
    """

    about: ClassVar[About] = About(paper="Hendrycks and Dietterich 2019, section 4.1")
    levels: ClassVar = (0.04, 0.06, 0.08, 0.09, 0.10)

    def change(self, x: Tensor, draws: Draws) -> Tensor:
        return x + self.levels[self.severity - 1] * draws.normal(x[0].numel()).view(x.shape)


@final
@dataclass(frozen=True, kw_only=True)
class ShotNoise(Corruption):
    """Photons counted: a Poisson number of mean x * photons, over photons.

    500, 250, 100, 75, 50 photons for white. Drawn by inversion of the distribution of each of
    256 grey levels.

    >>> ShotNoise(severity=5).apply(torch.full((1, 1, 50, 50), 0.5), rng=0).var()  # 0.5 / 50
    tensor(0.0100)
    """

    about: ClassVar[About] = About(paper="Hendrycks and Dietterich 2019, section 4.1")
    levels: ClassVar = (500, 250, 100, 75, 50)

    def change(self, x: Tensor, draws: Draws) -> Tensor:
        photons = self.levels[self.severity - 1]
        levels = (x * 255).round().numpy().astype(np.int64)
        share = draws.uniform(x[0].numel()).view(x.shape).double().numpy()
        reached = _reached(photons)
        places = np.searchsorted(reached.ravel(), levels + np.minimum(share, 1 - 2**-25), "right")
        counts = places - levels * reached.shape[1]
        return torch.from_numpy(counts).float() / photons


@cache
def _reached(photons: int) -> NDArray[np.float64]:
    """Level k, count n -> k + the probability of at most n photons: ascending as a whole.

    So that one search in the flattened table finds every value's count. The last count of a level
    has probability 1 to 12 digits, and a number in [0, 1) ends there at the latest.
    """
    most = int(poisson.ppf(1 - 1e-12, photons))
    level = np.arange(256)[:, None]
    below = poisson.cdf(np.arange(most + 1), level * photons / 255)
    below[:, -1] = 1
    out: NDArray[np.float64] = level + below
    return out


@final
@dataclass(frozen=True, kw_only=True)
class ImpulseNoise(Corruption):
    """Salt and pepper: a share of the values becomes 0 or 1, each as likely as the other.

    1, 2, 3, 5, 7 % of the values, each channel by itself, so that colour images get coloured dots.

    >>> x = ImpulseNoise(severity=5).apply(torch.full((1, 1, 100, 100), 0.2), rng=0)
    >>> [round(float((x == value).float().mean()), 3) for value in (0, 1)]
    [0.035, 0.034]
    """

    about: ClassVar[About] = About(paper="Hendrycks and Dietterich 2019, section 4.1")
    levels: ClassVar = (0.01, 0.02, 0.03, 0.05, 0.07)

    def change(self, x: Tensor, draws: Draws) -> Tensor:
        share = self.levels[self.severity - 1]
        drawn = draws.uniform(x[0].numel()).view(x.shape)
        salted = torch.where(drawn < share, 1.0, x)
        return torch.where(drawn < share / 2, 0.0, salted)
