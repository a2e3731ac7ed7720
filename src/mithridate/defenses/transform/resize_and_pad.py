"""Resize and pad: each image smaller by chance, and somewhere by chance."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.defenses.transform.base import Transform
from mithridate.errors import check_number, check_whole


@final
@dataclass(frozen=True, kw_only=True)
class ResizeAndPad(Transform):
    """A random size, by the nearest pixel, and a random place on black (Xie et al. 2018).

    Deviation: they enlarge (299 to between 310 and 331 of 331 pixels), for a network that takes
    any size; here the image shrinks, so that any network does.

    Every call draws anew, from a generator that `seed` starts. Who knows the defence takes the
    mean probabilities of `eot` draws of his own (EOT: Athalye et al. 2018, section 4.2), through
    which gradients are exact.

    Args:
        smallest: of the sizes drawn, as a share of the image's, in (0, 1].
        seed: starts the draws.
        eot: draws of the attacker for each pass.

    Raises:
        InputError: a value out of range.

    >>> x = torch.ones(1, 1, 10, 10)
    >>> ResizeAndPad(smallest=0.5).transform(x).sum() < 100
    tensor(True)
    """

    about: ClassVar[About] = About(paper="Xie et al. 2018, section 4", atlas=("AML.M0010",))
    draws: ClassVar[bool] = True

    smallest: float = 0.8
    seed: int = 0
    eot: int = 30
    coins: torch.Generator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_number("smallest", self.smallest, low=0, high=1, open_low=True)
        check_whole("eot", self.eot, low=1)
        object.__setattr__(self, "coins", random.rng(self.seed))

    @property
    def passes(self) -> int:
        return self.eot

    def transform(self, x: Tensor) -> Tensor:
        count, _, height, width = x.shape
        chance = torch.rand((3, count, 1), generator=self.coins).to(x.device)
        size = 1 - (1 - self.smallest) * chance[0]
        rows, inside = _places(height, size, chance[1])
        columns, within = _places(width, size, chance[2])
        moved = x.gather(2, rows[:, None, :, None].expand_as(x))
        moved = moved.gather(3, columns[:, None, None].expand_as(x))
        return moved * (inside[:, None, :, None] & within[:, None, None])

    def attacker(self, model: Classifier) -> Classifier:
        own = replace(self, seed=self.seed + 1)
        return self.behind(model.attacker(), own.transform, passes=self.passes)


def _places(n: int, size: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """For each of n places which of n pixels is there, and whether any is: (N, n) twice.

    Args:
        size: shares of n, (N, 1).
        place: of what is left over, the share that goes before, (N, 1).
    """
    length = (n * size).round().clamp(1, n)
    first = (place * (n - length + 1)).floor()
    at = torch.arange(n, device=size.device) - first
    return (at * n / length).floor().long().clamp(0, n - 1), (at >= 0) & (at < length)
