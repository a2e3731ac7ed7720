import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from mithridate.data import decode as module
from mithridate.data.decode import MAX_PIXELS, decode
from mithridate.errors import DataError


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def claims(width, height):
    """A PNG header that promises width x height, with no pixels in it."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        for body in chunks
    )


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 7), st.just(3))))
def test_png_round_trip(pixels):
    (chunk,) = decode([(encoded(Image.fromarray(pixels)), "x")])
    assert np.array_equal(chunk[0], pixels.transpose(2, 0, 1))
    (grey,) = decode([(encoded(Image.fromarray(pixels[:, :, 0])), "x")])
    assert np.array_equal(grey[0, 0], pixels[:, :, 0])


def test_chunks_are_bounded_and_complete(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 8)
    files = [(encoded(Image.new("L", (2, 2), level)), "x") for level in range(5)]
    chunks = list(decode(files))
    assert [len(chunk) for chunk in chunks] == [2, 2, 1]
    assert np.concatenate(chunks)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert list(decode([])) == []


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)],
)
def test_colour_modes(mode, channels):
    (chunk,) = decode([(encoded(Image.new(mode, (3, 2), 1)), "x")])
    assert chunk.shape == (1, channels, 2, 3)


def test_bilevel_white_is_255_and_jpeg_decodes():
    (chunk,) = decode([(encoded(Image.new("1", (1, 1), 1)), "x")])
    assert chunk.item() == 255
    (chunk,) = decode([(encoded(Image.new("RGB", (8, 8), (200, 10, 10)), "JPEG"), "x")])
    assert abs(int(chunk[0, 0, 0, 0]) - 200) < 6


WHOLE = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9), dtype=np.uint8)))


@pytest.mark.parametrize(
    ("blob", "says"),
    [
        (b"", "none of PNG"),
        (b"hello", "none of PNG"),
        (WHOLE[:-40], "cannot be decoded"),
        (WHOLE[:20], "cannot be decoded"),
        (encoded(Image.new("I;16", (2, 2))), "mode I;16"),
        (claims(MAX_PIXELS, 2), "decompression bomb"),
        (claims(10_000, 10_000), "decompression bomb"),
        (claims(100_000, 100_000), "decompression bomb"),
    ],
)
def test_bad_images_are_named(blob, says):
    with pytest.raises(DataError, match=f"^PLACE .*{says}") as caught:
        list(decode([(blob, "PLACE")]))
    assert "\n" not in str(caught.value)


def test_one_shape():
    files = [(encoded(Image.new("L", (3, 2))), "a"), (encoded(Image.new("RGB", (3, 2))), "b")]
    with pytest.raises(DataError, match="b is 3x2x3, the images before it 1x2x3"):
        list(decode(files))


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_damaged_bytes_decode_or_are_refused(at, change):
    damaged = bytearray(WHOLE)
    damaged[at] ^= change
    try:
        (chunk,) = decode([(bytes(damaged), "x")])
    except DataError:
        return
    assert chunk.dtype == np.uint8
