"""The fifteen corruptions for the docs: python docs/corruption_pictures.py [ROW].

One CIFAR-10 test image, clean and at severities 1 to 5 under each. Writes
docs/reference/img/corruptions.png in a few seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import mithridate as mi
from mithridate import component

FILE = Path(__file__).parent / "reference" / "img" / "corruptions.png"
TILE, GAP, TEXT, COLUMNS = 64, 16, 18, 3


def strip(test: mi.ImageSet, row: int, name: str) -> Image.Image:
    """The image, clean and at each severity, side by side."""
    sets = [mi.corrupt(test, name, severity=k, rng=0, rows=[row]) for k in range(1, 6)]
    shown = [test.raw([row]), *(one.raw([0]) for one in sets)]
    out = Image.new("RGB", (6 * TILE, TILE))
    for k, pixels in enumerate(shown):
        tile = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
        out.paste(tile.resize((TILE, TILE), Image.Resampling.NEAREST), (k * TILE, 0))
    return out


def main(row: int = 6) -> None:
    """Write the picture."""
    _, test = mi.load_data("cifar10")
    names = component.in_order("corruptions")
    lines = -(-len(names) // COLUMNS)
    width = COLUMNS * (6 * TILE + GAP) - GAP
    sheet = Image.new("RGB", (width, lines * (TILE + TEXT + GAP // 2)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for k, name in enumerate(names):
        left = k // lines * (6 * TILE + GAP)
        top = k % lines * (TILE + TEXT + GAP // 2)
        draw.text((left, top), name, "black", font)
        sheet.paste(strip(test, row, name), (left, top + TEXT))
    FILE.parent.mkdir(exist_ok=True)
    sheet.quantize(128).save(FILE, optimize=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
