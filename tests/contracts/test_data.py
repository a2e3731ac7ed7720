"""Faults met with images and class names of one's own, each with its right value."""

from __future__ import annotations

import io
import logging
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.data.decode import Fit, decode
from mithridate.data.folder import SUFFIXES
from mithridate.errors import DataError, InputError


def deep_png(kind: int, values: list[int]) -> bytes:
    """A PNG of one pixel with 16 bits a channel; kind 0 grey, 2 RGB, 4 grey + alpha, 6 RGBA."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    pixels = b"\0" + b"".join(struct.pack(">H", value) for value in values)
    head = struct.pack(">IIBBBBB", 1, 1, 16, kind, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def deep_tiff() -> bytes:
    """A TIFF of one RGB pixel with 16 bits a channel, which Pillow opens as 8-bit RGB."""
    end = 8 + 2 + 9 * 12 + 4
    tags = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 3, end), (259, 3, 1, 1), (262, 3, 1, 2),
            (273, 4, 1, end + 6), (277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 6)]  # fmt: skip
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    pixels = struct.pack("<HHHHHH", 16, 16, 16, 255, 254, 65535)
    return b"II*\0" + struct.pack("<IH", 8, 9) + body + struct.pack("<I", 0) + pixels


@pytest.mark.parametrize(
    "blob",
    [
        deep_png(0, [300]),
        deep_png(2, [255, 254, 65535]),
        deep_png(4, [300, 9]),
        deep_png(6, [255, 254, 65535, 9]),
        deep_tiff(),
        b"P6 1 1 65535\n" + struct.pack(">HHH", 255, 254, 65535),
        b"P5 1 1 65535\n" + struct.pack(">H", 255),
    ],
    ids=["grey", "rgb", "grey-alpha", "rgba", "tiff", "ppm", "pgm"],
)
def test_more_than_8_bits_are_refused_whatever_the_mode(blob: bytes) -> None:
    with pytest.raises(DataError, match="convert it to 8-bit grey or RGB"):
        list(decode([(blob, "a file")]))


def filled(folder: Path, endings: tuple[str, ...] = (".png",), size: int = 4) -> Path:
    """A class folder with six grey images of each ending."""
    folder.mkdir(parents=True)
    for ending in endings:
        for number in range(6):
            Image.new("L", (size, size), 40 * number).save(folder / f"{ending[1:]}{number}{ending}")
    return folder


def test_a_folder_gives_what_pillow_reads_and_says_what_it_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path / "a", SUFFIXES)
    filled(tmp_path / "b")
    for name in ("x.svg", "y.svg", "notes.txt", ".hidden", "Thumbs.db"):
        (tmp_path / "a" / name).write_text("")
    with caplog.at_level(logging.WARNING):
        train, test = mi.load_data(str(tmp_path), mode="L")
    assert len(train) + len(test) == 6 * len(SUFFIXES) + 6
    assert "3 files left out (2 .svg, 1 .txt)" in caplog.text


@pytest.mark.parametrize(
    ("mode", "size", "named"),
    [("L", 6, "--resize 4"), ("RGB", 4, "--mode RGB"), ("RGB", 6, "--resize 4 --mode RGB")],
)
def test_other_sizes_and_modes_are_refused_with_what_brings_them_to_one(
    tmp_path: Path, mode: str, size: int, named: str
) -> None:
    filled(tmp_path / "a")
    other = filled(tmp_path / "b") / "zz.png"
    Image.new(mode, (size, size)).save(other)
    with pytest.raises(DataError, match=named) as caught:
        mi.load_data(str(tmp_path))
    words = str(caught.value).partition("--")[2].partition(" (")[0].split(" --")
    train, test = mi.load_data(str(tmp_path), **dict(word.split() for word in words))  # type: ignore[arg-type]
    assert len(train) + len(test) == 13
    assert train.image_shape == ((3, 4, 4) if "RGB" in named else (1, 4, 4))


def test_resize_and_mode_are_pillows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    wanted = np.asarray(
        Image.fromarray(pixels).convert("L").resize((5, 4), Image.Resampling.BILINEAR)
    )
    fit = Fit.of("4x5", "L")
    (read,) = decode([(file.getvalue(), "a")], fit)
    assert np.array_equal(read[0, 0], wanted)
    assert np.array_equal(fit.pixels(pixels.transpose(2, 0, 1)[None]), read)


@pytest.mark.parametrize(
    "wrong", [{"resize": "0"}, {"resize": "4x4x4"}, {"resize": "-4"}, {"mode": "CMYK"}]
)
def test_sizes_and_modes_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        mi.load_data("digits", **wrong)


def test_id2label_is_taken_by_its_numbers() -> None:
    id2label = {1: "dog", 0: "cat", "2": "emu"}
    pixels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    assert Classifier(torch.nn.Flatten(), classes=id2label).class_names == ("cat", "dog", "emu")
    assert mi.ImageSet(pixels, [0, 1, 2], id2label).class_names == ("cat", "dog", "emu")


def test_ten_thousand_classes_cost_nothing() -> None:
    names = [f"class {number}" for number in range(10_000)]
    data = mi.ImageSet(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), [0, 1], names)
    began = time.perf_counter()
    for _ in range(20):
        data.subset([0])
    assert time.perf_counter() - began < 2  # 28 s where each name was counted


@pytest.mark.parametrize(("name", "near"), [("imagse", "images"), ("mnits", "mnist")])
def test_the_nearest_name_or_folder_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, near: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        mi.load_data("imagse")
    assert "did you mean" not in str(caught.value)
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=f"did you mean '{near}'"):
        mi.load_data(name)
