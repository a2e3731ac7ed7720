"""PNG and JPEG bytes to uint8 C x H x W, with a guard against bombs and odd shapes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from mithridate.data.store import Pixels
from mithridate.errors import DataError

CHUNK_BYTES = 2**20
"""Decoded bytes handed on at a time."""

MAX_PIXELS = 2**24
"""Width x height above which an image is refused before any pixel is decoded (4096 x 4096)."""

GREY = {"1", "L", "LA"}
COLOUR = {"RGB", "RGBA", "P", "CMYK", "YCbCr"}


def decode(files: Iterable[tuple[bytes, str]]) -> Iterator[Pixels]:
    """Decode image files, all of the first one's shape, in chunks of about CHUNK_BYTES.

    Grey stays one channel; palettes and other colour models become RGB; alpha is dropped;
    16-bit and other depths are refused, for they would lose values silently.

    Args:
        files: encoded image, and how an error names it; consumed as needed.

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
        pixels = _open(blob, place)
        image = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        shape = shape or image.shape
        if image.shape != shape:
            raise DataError(
                f"{place} is {_text(image.shape)}, the images before it {_text(shape)}: "
                "bring all to one size and colour mode"
            )
        part.append(image)
        if len(part) * image.nbytes >= CHUNK_BYTES:
            yield np.stack(part)
            part = []
    if part:
        yield np.stack(part)


def _open(blob: bytes, place: str) -> Pixels:
    try:
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(blob), formats=("PNG", "JPEG")) as image,
        ):
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height}")
            mode = image.mode
            if mode not in GREY | COLOUR:
                raise DataError(f"{place} has mode {mode}: convert it to 8-bit grey or RGB")
            wanted = "L" if mode in GREY else "RGB"
            return np.asarray(image if mode == wanted else image.convert(wanted))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"{place} has more than {MAX_PIXELS} pixels, refused as a decompression bomb: shrink it"
        ) from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged bytes
        reason = "no PNG or JPEG" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{place} cannot be decoded ({reason}): replace or remove it") from None


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
