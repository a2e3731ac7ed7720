"""A contact sheet: a row per class, a column per way of making its image, one PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mithridate.errors import InputError

SIDE, GAP, TEXT = 72, 8, 14
"""Pixels: about a picture's side, between pictures, height of letters."""
BLOCK = 10
"""Rows below each other; more classes stand in further blocks to the right."""
INK, PAPER = (24, 24, 24), (255, 255, 255)


@dataclass(frozen=True)
class Column:
    """One image per class, and what is written beside it.

    Attributes:
        title: above the column.
        images: (K, C, H, W) in [0, 1], with 1 or 3 channels.
        captions: one per image.
    """

    title: str
    images: NDArray[np.generic]
    captions: Sequence[str]


def sheet(names: Sequence[str], columns: Sequence[Column]) -> bytes:
    """Draw it; whole multiples of pixels, so that an image's own pixels stay visible.

    Raises:
        InputError: nothing to draw, counts that differ, or channels that are no colour.

    >>> drawn = sheet(["0"], [Column("noise", np.zeros((1, 1, 8, 8)), ["99.9 %"])])
    >>> Image.open(io.BytesIO(drawn)).format
    'PNG'
    """
    _check(names, columns)
    font = ImageFont.load_default(size=TEXT)
    height, width = (int(n) for n in columns[0].images.shape[2:])
    factor = max(1, SIDE // max(height, width))
    tile = (width * factor, height * factor)
    label = GAP + max(int(font.getlength(name)) for name in names) + GAP
    cells = [_cell(font, column, tile[0]) for column in columns]
    blocks = -(-len(names) // BLOCK)
    head = TEXT + 2 * GAP
    block = (label + sum(cells), head + min(len(names), BLOCK) * (tile[1] + GAP))
    page = Image.new("RGB", (blocks * block[0], block[1]), PAPER)
    draw = ImageDraw.Draw(page)
    for index, name in enumerate(names):
        left, top = index // BLOCK * block[0], head + index % BLOCK * (tile[1] + GAP)
        middle = top + tile[1] // 2
        draw.text((left + GAP, middle), name, INK, font, anchor="lm")
        left += label
        for column, cell in zip(columns, cells, strict=True):
            if index % BLOCK == 0:
                draw.text((left, GAP), column.title, INK, font)
            page.paste(_tile(column.images[index], tile), (left, top))
            caption = (left + tile[0] + GAP, middle)
            draw.text(caption, column.captions[index], INK, font, anchor="lm")
            left += cell
    buffer = io.BytesIO()
    page.quantize(256).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _check(names: Sequence[str], columns: Sequence[Column]) -> None:
    if not names or not columns:
        raise InputError("a sheet needs at least one class and one column")
    for column in columns:
        shape = column.images.shape
        if len(shape) != 4 or shape[1] not in (1, 3):
            raise InputError(f"a sheet shows images K x C x H x W, C 1 or 3, got {shape}")
        if not len(names) == shape[0] == len(column.captions):
            raise InputError(f"{len(names)} classes, {shape[0]} images: give one image per class")
        if shape[2:] != columns[0].images.shape[2:]:
            raise InputError("the images of a sheet are of one size")


def _cell(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, column: Column, tile: int) -> int:
    """Width of a column's cells: its title, or its widest caption beside the picture."""
    words = max(int(font.getlength(text)) for text in column.captions)
    return max(tile + GAP + words, int(font.getlength(column.title))) + 2 * GAP


def _tile(image: NDArray[np.generic], size: tuple[int, int]) -> Image.Image:
    levels = np.round(np.clip(image.astype(np.float64), 0, 1) * 255).astype(np.uint8)
    pixels = levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).convert("RGB")
