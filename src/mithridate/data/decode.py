"""Image files to uint8 C x H x W, with a guard against bombs, depths and odd shapes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from mithridate.data.store import Pixels
from mithridate.errors import DataError, InputError

CHUNK_BYTES = 2**20
"""Decoded bytes handed on at a time."""

MAX_PIXELS = 2**24
"""Width x height above which an image is refused before any pixel is decoded (4096 x 4096)."""

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What is read, by Pillow; not formats that hold programs (EPS) or have no mark to know them by."""

_PLUGINS = TiffImagePlugin, WebPImagePlugin
"""Pillow finds the other formats by itself."""

GREY = {"1", "L", "LA"}
COLOUR = {"RGB", "RGBA", "P", "CMYK", "YCbCr"}
MODES = {"L": 1, "RGB": 3}
"""Modes that images can be brought to -> channels."""


@dataclass(frozen=True)
class Fit:
    """What images are brought to as they are read; nothing by default.

    Attributes:
        size: (H, W), by Pillow's bilinear filter with antialiasing; proportions are not kept.
        mode: "L" or "RGB", as Pillow converts them.

    Raises:
        InputError: no such mode.

    >>> Fit.of("8x6", "RGB"), Fit.of(32)
    (Fit(size=(8, 6), mode='RGB'), Fit(size=(32, 32), mode=None))
    """

    size: tuple[int, int] | None = None
    mode: str | None = None

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in MODES:
            raise InputError(f"mode is L (grey) or RGB, got {self.mode!r}")

    @classmethod
    def of(cls, resize: int | str | None = None, mode: str | None = None) -> Fit:
        """From N or "HxW", and a mode.

        Raises:
            InputError: neither, or a size out of 1 to 4096.
        """
        if resize is None:
            return cls(None, mode)
        parts = str(resize).lower().split("x")
        sizes = [int(part) for part in parts if part.isdecimal() and 0 < int(part) <= 4096]
        if len(sizes) != len(parts) or len(sizes) > 2:
            raise InputError(f"resize is N or HxW, each from 1 to 4096, got {resize!r}")
        return cls((sizes[0], sizes[-1]), mode)

    def words(self) -> dict[str, str]:
        """The settings of `load_data` that say it.

        >>> Fit((8, 6), "L").words()
        {'resize': '8x6', 'mode': 'L'}
        """
        size = self.size and ("{}" if self.size[0] == self.size[1] else "{}x{}").format(*self.size)
        return {k: v for k, v in (("resize", size), ("mode", self.mode)) if v}

    def image(self, image: Image.Image) -> Image.Image:
        """An L or RGB image as it is wanted."""
        if self.mode is not None and image.mode != self.mode:
            image = image.convert(self.mode)
        if self.size is not None and image.size != self.size[::-1]:
            image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        return image

    def pixels(self, images: Pixels) -> Pixels:
        """Decoded images (N, C, H, W), of 1 or 3 channels, as reading their files would give them.

        >>> Fit(mode="RGB").pixels(np.zeros((2, 1, 4, 4), np.uint8)).shape
        (2, 3, 4, 4)
        """
        if self == Fit() or images.shape[1] not in (1, 3):
            return images
        planes = [one[0] if len(one) == 1 else one.transpose(1, 2, 0) for one in images]
        fitted = (np.asarray(self.image(Image.fromarray(plane))) for plane in planes)
        return np.stack([one[None] if one.ndim == 2 else one.transpose(2, 0, 1) for one in fitted])


def decode(files: Iterable[tuple[bytes, str]], fit: Fit = Fit()) -> Iterator[Pixels]:
    """Decode image files, all of the first one's shape, in chunks of about CHUNK_BYTES.

    Grey stays one channel; palettes and other colour models become RGB; alpha is dropped;
    more than 8 bits a channel and several frames are refused, for they would lose values silently.

    Args:
        files: encoded image, and how an error names it; consumed as needed.
        fit: the size and mode that all are brought to.

    Yields:
        uint8 (n, C, H, W), n >= 1.

    Raises:
        DataError: an image is damaged, too large, or of another shape or depth.

    >>> file = io.BytesIO()
    >>> Image.new("L", (3, 2), 7).save(file, "PNG")
    >>> [chunk.shape for chunk in decode([(file.getvalue(), "a.png")] * 2)]
    [(2, 1, 2, 3)]
    """
    shape: tuple[int, ...] | None = None
    part: list[Pixels] = []
    for blob, place in files:
        pixels = _open(blob, place, fit)
        image = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        shape = shape or image.shape
        if image.shape != shape:
            raise DataError(
                f"{place} is {_text(image.shape)}, the images before it {_text(shape)}: "
                f"{way_out(shape, image.shape)}"
            )
        part.append(image)
        if len(part) * image.nbytes >= CHUNK_BYTES:
            yield np.stack(part)
            part = []
    if part:
        yield np.stack(part)


def way_out(wanted: tuple[int, ...], other: tuple[int, ...]) -> str:
    """What brings images (C, H, W) of two kinds to one.

    >>> way_out((3, 32, 32), (1, 32, 40))
    'bring all to one by --resize 32 --mode RGB (in Python resize=, mode=)'
    """
    size = (wanted[1], wanted[2]) if wanted[1:] != other[1:] else None
    given = Fit(size, "RGB" if wanted[0] != other[0] else None).words()
    return (
        f"bring all to one by {' '.join(f'--{key} {word}' for key, word in given.items())} "
        f"(in Python {', '.join(f'{key}=' for key in given)})"
    )


def _open(blob: bytes, place: str, fit: Fit) -> Pixels:
    try:
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(blob), formats=FORMATS) as image,
        ):
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height}")
            mode = image.mode
            if mode not in GREY | COLOUR:
                raise DataError(f"{place} has mode {mode}: convert it to 8-bit grey or RGB")
            if _deep(image, blob):
                raise DataError(
                    f"{place} has more than 8 bits a channel: convert it to 8-bit grey or RGB"
                )
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # a camera's: a preview follows the picture
                raise DataError(
                    f"{place} has {frames} frames: save the one that is meant by itself"
                )
            wanted = "L" if mode in GREY else "RGB"
            return np.asarray(fit.image(image if mode == wanted else image.convert(wanted)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"{place} has more than {MAX_PIXELS} pixels, refused as a decompression bomb: shrink it"
        ) from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged bytes
        known = f"none of {', '.join(FORMATS)}"
        reason = known if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{place} cannot be decoded ({reason}): replace or remove it") from None


def _deep(image: Image.Image, blob: bytes) -> bool:
    """Whether a file's channels have more than 8 bits, of which Pillow drops the lower ones.

    A mode such as RGB does not tell it.
    """
    tags: Any = getattr(image, "tag_v2", {})
    if image.format == "TIFF":
        return any(bits > 8 for bits in tags.get(258, ()))
    if image.format == "PPM":
        tiles: Any = getattr(image, "tile", ())
        return any(isinstance(v, int) and v > 255 for tile in tiles for v in _last(tile))
    return image.format == "PNG" and blob[24:25] == b"\x10"


def _last(tile: Any) -> tuple[Any, ...]:
    """What Pillow's tile says to its decoder, without the stride of raw pixels."""
    return tile[3] if tile[0] != "raw" and isinstance(tile[3], tuple) else ()


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
