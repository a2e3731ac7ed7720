"""Arrays to small PNG pictures in the page itself, and the scales that they share."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float64]

MOST_CLASSES = 24
"""More classes than this are not all shown."""

BELOW, ABOVE = (45, 118, 200), (230, 97, 1)
"""The two ends of the difference scale: blue and orange, told apart by every colour vision."""


@dataclass(frozen=True)
class Scale:
    """The values shown as the two ends of a colour scale."""

    low: float
    high: float


@dataclass(frozen=True)
class Picture:
    """One picture: a data URI and its size in pixels."""

    uri: str
    width: int
    height: int


def shared_scale(*arrays: Array | None) -> Scale:
    """One scale from the least to the greatest value of all arrays; 0 to 1 where there is none.

    >>> shared_scale(np.array([0.0, 0.25]), np.array([0.5, np.nan]))
    Scale(low=0.0, high=0.5)
    """
    values = [array[np.isfinite(array)] for array in arrays if array is not None]
    flat = np.concatenate([*values, np.empty(0)])
    if flat.size == 0:
        return Scale(0.0, 1.0)
    low, high = float(flat.min()), float(flat.max())
    return Scale(low, high if high > low else low + 1.0)


def signed_scale(*arrays: Array | None) -> Scale:
    """One scale symmetric about zero.

    >>> signed_scale(np.array([-0.5, 0.25]))
    Scale(low=-0.5, high=0.5)
    """
    scale = shared_scale(*arrays)
    reach = max(abs(scale.low), abs(scale.high)) or 1.0
    return Scale(-reach, reach)


def strongest_channel(difference: Array) -> Array:
    """C x H x W to H x W: per pixel, the signed value of the channel that differs most.

    A mean would let channels that move apart cancel out.

    >>> strongest_channel(np.array([[[0.1]], [[-0.4]], [[0.3]]]))
    array([[-0.4]])
    """
    filled = np.nan_to_num(difference, nan=0.0)
    at = np.abs(filled).argmax(axis=0)[None]
    return np.asarray(np.take_along_axis(difference, at, axis=0)[0])


def plain(image: Array, scale: Scale | None = None) -> Picture | None:
    """C x H x W on a linear grey (or red-green-blue) scale; NaN is transparent.

    `scale` defaults to 0 to 1. None where the image holds no value at all.
    """
    if not np.isfinite(image).any():
        return None
    scale = scale or Scale(0.0, 1.0)
    shown = np.isfinite(image).all(axis=0)
    level = (np.nan_to_num(image, nan=scale.low) - scale.low) / (scale.high - scale.low)
    channels = np.round(np.clip(level, 0, 1) * 255).astype(np.uint8)
    if shown.all():
        pixels = channels[0] if len(channels) == 1 else np.moveaxis(channels, 0, -1)
        return _encode(pixels)
    colour = np.moveaxis(np.broadcast_to(channels, (3, *shown.shape)), 0, -1)
    alpha = np.where(shown, 255, 0).astype(np.uint8)
    return _encode(np.concatenate([colour, alpha[..., None]], axis=-1))


def signed(difference: Array, scale: Scale) -> Picture | None:
    """C x H x W differences: orange above zero, blue below, clear at zero.

    Opacity carries the size, so the same picture reads on a light and on a dark page.
    """
    if not np.isfinite(difference).any():
        return None
    values = np.nan_to_num(strongest_channel(difference), nan=0.0)
    colour = np.where((values >= 0)[..., None], np.array(ABOVE), np.array(BELOW))
    alpha = np.round(np.clip(np.abs(values) / scale.high, 0, 1) * 255)
    return _encode(np.concatenate([colour, alpha[..., None]], axis=-1).astype(np.uint8))


def _encode(pixels: NDArray[np.uint8]) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = pixels.shape[:2]
    return Picture(f"data:image/png;base64,{text}", width, height)
