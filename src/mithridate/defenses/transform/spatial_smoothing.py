"""Spatial smoothing: each pixel becomes the median, or a mean, of those around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal, NamedTuple, final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mithridate.component import About
from mithridate.defenses.transform.base import Transform, substituted
from mithridate.errors import InputError

Kind = Literal["median", "mean", "half-power-mean", "sharpen"]

GREY = 1 / 255
"""One of 256 levels: where a square root's slope is taken for darker pixels."""


@final
@dataclass(frozen=True, kw_only=True)
class SpatialSmoothing(Transform):
    """Each pixel, in each channel by itself, from the window around it.

    The median is local smoothing as in "Feature Squeezing" (Xu, Evans and Qi 2018, section
    III-B, spatial smoothing) and as `scipy.ndimage.median_filter` has it. The other kinds are
    those of "Adversarial Machine Learning" (2020), section 2.3, listing 3 and equation 1.

    - `median`: of an even number of pixels, the greater of the two in the middle (as Xu et al.).
    - `mean`: of the window.
    - `half-power-mean`: the mean of the square roots, squared. Equation 1 leaves open whether
      rows are squared one by one, and listing 3 halves the pixels in place of taking their
      root; the name, "0.5mean", and an image that stays as bright as it was, speak for this.
    - `sharpen`: the pixel and what it has more than the mean of its window, 2 x - mean, cut to
      [0, 1] (the listing does not cut).

    The pixel lies in the middle of an odd window; of an even one, at the lower right of the four
    in the middle, as in both sources. Borders are mirrored along the edge, the outermost pixel
    repeated (c b a | a b c: SciPy's "reflect"), as Xu et al. do. Deviation from listing 3: there
    the outside is black, which darkens the rim.

    Gradients are exact. The median's is a subgradient: that of the pixel chosen, and of all those
    that equal it in equal parts. The half-power mean's is infinite at black pixels; there, the
    slope at one grey level (1/255) is taken, as if all pixels of the window were at least that.

    Args:
        kind: see above.
        window: 2 to 7 pixels a side.

    Raises:
        InputError: another kind or window; in use, an image smaller than the window.

    >>> x = torch.zeros(1, 1, 3, 3)
    >>> x[0, 0, 1, 1] = 0.9
    >>> SpatialSmoothing().transform(x).max().item()
    0.0
    >>> SpatialSmoothing(kind="mean").transform(x).max()
    tensor(0.1000)
    """

    about: ClassVar[About] = About(paper="Xu et al. 2018, section III-B", atlas=("AML.M0010",))

    kind: Kind = "median"
    window: int = 3

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"kind is one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        if self.window not in range(2, 8) or isinstance(self.window, float):
            raise InputError(f"window is a whole number from 2 to 7, got {self.window!r}")

    def transform(self, x: Tensor) -> Tensor:
        around = _mirrored(x, self.window)
        if self.kind == "median":
            out: Tensor = _Median.apply(around, self.window)  # type: ignore[no-untyped-call]
            return out
        if self.kind == "half-power-mean":
            return _half_power(around, self.window)
        mean = F.avg_pool2d(around, self.window, 1)
        return mean if self.kind == "mean" else (2 * x - mean).clamp(0, 1)


def _mirrored(x: Tensor, window: int) -> Tensor:
    """As many pixels more, mirrored along the edges, as the windows of all pixels need."""
    if min(x.shape[2:]) < window:
        size = " x ".join(map(str, x.shape[2:]))
        raise InputError(f"images of {size} are smaller than the window, {window}: take a smaller")
    before, after = window // 2, (window - 1) // 2
    for axis in (2, 3):
        first = x.narrow(axis, 0, before).flip(axis)
        last = x.narrow(axis, x.shape[axis] - after, after).flip(axis)
        x = torch.cat([first, x, last], axis)
    return x


def _half_power(around: Tensor, window: int) -> Tensor:
    exact = F.avg_pool2d(around.detach().sqrt(), window, 1).square()
    if not around.requires_grad:
        return exact
    lit = substituted(around.detach().clamp(min=GREY), around)
    return substituted(exact, F.avg_pool2d(lit.sqrt(), window, 1).square())


class _Median(torch.autograd.Function):
    """The median of every window of (N, C, H + window - 1, W + window - 1): (N, C, H, W)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, around: Tensor, window: int) -> Tensor:
        height, width = (n - window + 1 for n in around.shape[2:])
        columns, middle = networks(window)
        lines = [around.narrow(2, i, height) for i in range(window)]
        # Each column of three (say) is sorted once, for the three windows that share it.
        ranks = columns.run(lines)
        out = middle.run(
            [ranks[i].narrow(3, j, width) for j in range(window) for i in range(window)]
        )
        ctx.save_for_backward(around, out[0])
        ctx.window = window  # type: ignore[attr-defined]
        return out[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        around, out = ctx.saved_tensors  # type: ignore[attr-defined]
        window: int = ctx.window  # type: ignore[attr-defined]
        places = [
            (slice(None), slice(None), slice(i, i + out.shape[2]), slice(j, j + out.shape[3]))
            for i in range(window)
            for j in range(window)
        ]
        equal = torch.zeros_like(out)
        for place in places:
            equal += around[place] == out
        share, back = grad / equal, torch.zeros_like(around)
        for place in places:
            back[place] += share * (around[place] == out)
        return back, None


class Network(NamedTuple):
    """Comparisons of whole tensors: wires 0, 1, ... come in, and some wires go out.

    A step is the larger (else the smaller) of two wires, on a new wire, and which wires are not
    needed after it.
    """

    steps: tuple[tuple[bool, int, int, int, tuple[int, ...]], ...]
    out: tuple[int, ...]

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What goes out, in order."""
        wires = dict(enumerate(inputs))
        for larger, a, b, wire, drop in self.steps:
            wires[wire] = (torch.maximum if larger else torch.minimum)(wires[a], wires[b])
            for each in drop:
                del wires[each]
        return [wires[wire] for wire in self.out]


@cache
def networks(window: int) -> tuple[Network, Network]:
    """One that sorts a column of a window, and one that takes the median of sorted columns.

    Columns are merged one after the other by Batcher's odd-even merge (Knuth, The Art of
    Computer Programming, volume 3, section 5.3.4). After each merge, what has too many
    neighbours on one side to be the median is left out, and so is every comparison on which
    nothing depends.

    >>> [len(network.steps) for network in networks(3)]
    [6, 16]
    """
    sort = _Builder(window)
    columns = sort.network(sort.sorted(list(range(window))))
    pick, total = _Builder(window * window), window * window
    kept: list[int] = []
    rank, left = total // 2, total  # of the median, from 0, among those that are left
    for j in range(window):
        kept = pick.merged(kept, list(range(j * window, (j + 1) * window)))
        low, high = max(0, len(kept) - left + rank), min(len(kept), rank + 1)
        rank, left = rank - low, left - len(kept) + high - low
        kept = kept[low:high]
    return columns, pick.network([kept[rank]])


class _Builder:
    """Writes down comparisons, and keeps those that matter."""

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs
        self.pairs: list[tuple[bool, int, int]] = []

    def compared(self, a: int, b: int) -> tuple[int, int]:
        """Two new wires: the smaller and the larger."""
        self.pairs += [(False, a, b), (True, a, b)]
        last = self.inputs + len(self.pairs)
        return last - 2, last - 1

    def merged(self, a: list[int], b: list[int]) -> list[int]:
        """Two sorted lists of wires as one."""
        if not a or not b:
            return a + b
        if len(a) == len(b) == 1:
            return [*self.compared(a[0], b[0])]
        first, *rest = self.merged(a[::2], b[::2])
        odd = self.merged(a[1::2], b[1::2])
        out = [first]
        for low, high in zip(odd, rest, strict=False):
            out += self.compared(low, high)
        return out + odd[len(rest) :] + rest[len(odd) :]

    def sorted(self, wires: list[int]) -> list[int]:
        """The wires in order."""
        half = len(wires) // 2
        if half == 0:
            return wires
        return self.merged(self.sorted(wires[:half]), self.sorted(wires[half:]))

    def network(self, out: list[int]) -> Network:
        """What `out` depends on, each wire dropped after its last use."""
        needed, steps = set(out), []
        for k, (larger, a, b) in reversed(list(enumerate(self.pairs, self.inputs))):
            if k in needed:
                drop = tuple({a, b} - needed)
                needed |= {a, b}
                steps.append((larger, a, b, k, drop))
        return Network(tuple(reversed(steps)), tuple(out))
