"""Low-pass: what changes fast from pixel to pixel is left out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate.component import About
from mithridate.defenses.transform.base import Transform
from mithridate.errors import check_number

REACH = 4
"""Standard deviations at which the kernel is cut."""


@final
@dataclass(frozen=True, kw_only=True)
class LowPass(Transform):
    """A Gaussian blur of each channel (Shaham et al. 2018, low-pass filtering).

    As `scipy.ndimage.gaussian_filter`: the kernel is cut at four standard deviations, borders are
    mirrored along the edge (c b a | a b c). It is linear; gradients are exact.

    Args:
        sigma: standard deviation in pixels, above 0, at most 16.

    Raises:
        InputError: another sigma.

    >>> LowPass().transform(torch.full((1, 1, 4, 4), 0.5)).std().item() < 1e-6
    True
    """

    about: ClassVar[About] = About(paper="Shaham et al. 2018", atlas=("AML.M0010",))

    sigma: float = 1.0

    def __post_init__(self) -> None:
        check_number("sigma", self.sigma, low=0, high=16, open_low=True)

    def transform(self, x: Tensor) -> Tensor:
        rows, columns = (blur(n, self.sigma).to(x) for n in x.shape[2:])
        return rows @ x @ columns.T


@cache
def blur(n: int, sigma: float) -> Tensor:
    """The blur of a line of n pixels as a matrix (n, n), borders included.

    >>> bool((blur(5, 1.0).sum(1) - 1).abs().max() < 1e-6)
    True
    """
    reach = int(REACH * sigma + 0.5)
    steps = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (steps.double() / sigma) ** 2)
    place = (torch.arange(n)[:, None] + steps) % (2 * n)
    place = place.minimum(2 * n - 1 - place)  # mirrored along the edge, again and again
    out = torch.zeros(n, n, dtype=torch.float64)
    return out.scatter_add_(1, place, (weights / weights.sum()).expand(n, -1)).float()
