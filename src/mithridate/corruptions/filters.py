"""What several corruptions are made of: borders, blurs, streaks, enlargements, clouds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate.rng import Draws

FAINT = 1e-6
"""A streak's weight, of 1, that is left out."""


def mirrored(index: Tensor, size: int, *, twice: bool) -> Tensor:
    """Places before and after 0..size - 1, mirrored into it.

    Args:
        twice: whether the outermost pixel is repeated: c b a | a b c (SciPy's "reflect") in
            place of c b | a b c (OpenCV's BORDER_REFLECT_101).

    >>> mirrored(torch.arange(-2, 5), 3, twice=True).tolist()
    [1, 0, 0, 1, 2, 2, 1]
    >>> mirrored(torch.arange(-2, 5), 3, twice=False).tolist()
    [2, 1, 0, 1, 2, 1, 0]
    """
    if twice:
        index = index.remainder(2 * size)
        return torch.minimum(index, 2 * size - 1 - index)
    period = max(1, 2 * size - 2)
    index = index.remainder(period)
    return torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index)


def padded(x: Tensor, axis: int, pad: int, border: str) -> Tensor:
    """Images with `pad` pixels more before and after: "edge", "twice" or "once" mirrored."""
    size = x.shape[axis]
    places = torch.arange(-pad, size + pad)
    if border == "edge":
        places = places.clamp(0, size - 1)
    else:
        places = mirrored(places, size, twice=border == "twice")
    return x.index_select(axis, places)


def filtered(x: Tensor, kernel: Tensor, border: str) -> Tensor:
    """Images under a kernel of odd sides, each channel by itself.

    Tap by tap, so that the order of the sum, and with it the level to which a pixel is rounded,
    does not hang on the batch, as a convolution's does.
    """
    down, right = (side // 2 for side in kernel.shape)
    wide = padded(padded(x, 2, down, border), 3, right, border)
    out, (height, width) = torch.zeros_like(x), x.shape[2:]
    for i, j in kernel.nonzero().tolist():
        out += float(kernel[i, j]) * wide[:, :, i : i + height, j : j + width]
    return out


def gaussian_weights(sigma: float, radius: int) -> Tensor:
    """The normal density at -radius..radius, of sum 1, float64.

    >>> gaussian_weights(0.5, 1)
    tensor([0.1065, 0.7870, 0.1065], dtype=torch.float64)
    """
    if sigma == 0:
        radius = 0
    weights = torch.exp(-((torch.arange(-radius, radius + 1).double() / max(sigma, 1e-9)) ** 2) / 2)
    return weights / weights.sum()


def blurred(x: Tensor, sigma: float, *, truncate: float = 4.0, border: str = "edge") -> Tensor:
    """A Gaussian blur that reaches `truncate` sigmas, as `scipy.ndimage.gaussian_filter` has it.

    >>> blurred(torch.eye(3)[None, None], 0.4).mean()  # what leaves one pixel reaches another
    tensor(0.3333)
    """
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return x
    weights = gaussian_weights(sigma, radius)
    return filtered(filtered(x, weights[:, None], border), weights[None], border)


def bilinear(x: Tensor, row: Tensor, column: Tensor, *, twice: bool) -> Tensor:
    """Images read at places between pixels, mirrored beyond the border.

    Args:
        x: (N, C, H, W).
        row, column: (N, H', W') in pixels.
        twice: as `mirrored`.
    """
    height, width = x.shape[2:]
    top, left = row.floor(), column.floor()
    out = torch.zeros(1, dtype=x.dtype)
    for down in (0, 1):
        for right in (0, 1):
            part_y = row - top if down else 1 - (row - top)
            part_x = column - left if right else 1 - (column - left)
            y = mirrored(top.long() + down, height, twice=twice)
            z = mirrored(left.long() + right, width, twice=twice)
            out = out + gathered(x, y * width + z) * (part_y * part_x)[:, None]
    return out


def gathered(x: Tensor, places: Tensor) -> Tensor:
    """Pixels (N, C, H', W') at places of the flattened image, int64 (N, H', W')."""
    flat = places.flatten(1)[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, flat).view(*x.shape[:2], *places.shape[1:])


def streaked(x: Tensor, radius: int, sigma: float, angle: Tensor) -> Tensor:
    """Each image smeared along its own angle: ImageMagick's motion blur.

    A pixel becomes a mean of the 2 * radius + 1 pixels from it in one direction, weighted by half
    a Gaussian; steps are whole pixels, and the edge goes on beyond the border. Pixels of a weight
    below `FAINT` are left out.

    Args:
        angle: (N,) in degrees, clockwise from the right.

    >>> x = torch.zeros(1, 1, 1, 5); x[..., 2] = 1
    >>> streaked(x, 2, 1.0, torch.zeros(1)).gt(0.01).tolist()
    [[[[True, True, True, False, False]]]]
    """
    weights = torch.exp(-((torch.arange(2 * radius + 1).double() / sigma) ** 2) / 2)
    weights = weights[weights > FAINT] / weights[weights > FAINT].sum()
    height, width = x.shape[2:]
    turn = torch.deg2rad(angle.double())
    row, column = torch.arange(height)[None, :, None], torch.arange(width)[None, None]
    out = torch.zeros_like(x)
    for step, weight in enumerate(weights.tolist()):
        right, down = (
            torch.ceil(step * f(turn) - 0.5).long()[:, None, None] for f in (torch.cos, torch.sin)
        )
        y, z = (row + down).clamp(0, height - 1), (column + right).clamp(0, width - 1)
        out += weight * gathered(x, y * width + z)
    return out


def enlarged(x: Tensor, factor: float) -> Tensor:
    """The middle of each image, in the image's size: 1 / factor of its sides, whole pixels.

    It is read bilinearly with the corners on corners, as `scipy.ndimage.zoom` of order 1 does.

    >>> enlarged(torch.arange(16.).view(1, 1, 4, 4), 2)[0, 0, 0]
    tensor([5.0000, 5.3333, 5.6667, 6.0000])
    """
    height, width = x.shape[2:]
    small = [math.ceil(size / factor) for size in (height, width)]
    top, left = (height - small[0]) // 2, (width - small[1]) // 2
    middle = x[:, :, top : top + small[0], left : left + small[1]]
    large = [round(size * factor) for size in small]
    big = F.interpolate(middle, large, mode="bilinear", align_corners=True)
    top, left = (large[0] - height) // 2, (large[1] - width) // 2
    return big[:, :, top : top + height, left : left + width]


def plasma(shape: Sequence[int], decay: float, draws: Draws) -> Tensor:
    """Clouds in [0, 1], (N, 1, H, W): midpoint displacement (Fournier, Fussell and Carpenter 1982).

    Squares and diamonds by turns on a torus whose side is the power of two that holds the image;
    each midpoint is the mean of its four neighbours, moved by a uniform number whose range shrinks
    by `decay` squared from one scale to the next.

    Args:
        shape: of the images, (N, C, H, W).
    """
    count, _, height, width = shape
    side = 2 ** max(1, math.ceil(math.log2(max(height, width))))
    out = torch.zeros(count, side, side, dtype=torch.float64)
    step, reach = side, 1.0

    def midpoints(total: Tensor) -> Tensor:
        moves = 2 * draws.uniform(total[0].numel()).view(total.shape) - 1
        return total / 4 + reach * moves

    while step >= 2:
        half = step // 2
        corners = out[:, ::step, ::step]
        below = corners + corners.roll(-1, 1)
        out[:, half::step, half::step] = midpoints(below + below.roll(-1, 2))
        middles = out[:, half::step, half::step]
        upright = middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)
        out[:, ::step, half::step] = midpoints(upright)
        lying = middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)
        out[:, half::step, ::step] = midpoints(lying)
        step, reach = half, reach / decay**2
    low, high = out.amin((1, 2), keepdim=True), out.amax((1, 2), keepdim=True)
    return ((out - low) / (high - low))[:, None, :height, :width].float()
