"""Contact sheets: the pixels that are drawn, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mithridate.errors import InputError
from mithridate.reports.sheet import Column, sheet


def drawn(names, columns):
    return np.asarray(Image.open(io.BytesIO(sheet(names, columns))).convert("RGB"))


def test_every_pixel_is_shown_enlarged() -> None:
    images = np.zeros((2, 1, 8, 8))
    images[0, 0, 0, 0] = 1.0
    images[1] = 0.5
    page = drawn(["a", "b"], [Column("x", images, ["", ""])])
    assert int((page == 128).all(2).sum()) >= 72 * 72  # the second, 9 pixels for one
    black = (page == 0).all(2)
    assert int(black.sum()) == 72 * 72 - 81
    assert page.shape[0] == 30 + 2 * 80


def test_colours_stay() -> None:
    image = np.zeros((1, 3, 4, 4))
    image[:, 0] = 1.0
    page = drawn(["red"], [Column("x", image, ["100 %"])])
    assert int((page == (255, 0, 0)).all(2).sum()) == 72 * 72


def test_more_than_ten_classes_stand_side_by_side() -> None:
    one = drawn(["k"] * 10, [Column("x", np.zeros((10, 1, 4, 4)), ["c"] * 10)])
    two = drawn(["k"] * 11, [Column("x", np.zeros((11, 1, 4, 4)), ["c"] * 11)])
    assert two.shape[0] == one.shape[0]
    assert two.shape[1] == 2 * one.shape[1]


def test_large_images_are_not_shrunk() -> None:
    page = drawn(["k"], [Column("x", np.zeros((1, 1, 100, 90)), ["c"])])
    assert int((page == 0).all(2).sum()) >= 100 * 90


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        ([], [], "at least one class"),
        (["a"], [Column("x", np.zeros((1, 2, 4, 4)), ["c"])], "C 1 or 3"),
        (["a"], [Column("x", np.zeros((4, 4)), ["c"])], "C 1 or 3"),
        (["a", "b"], [Column("x", np.zeros((1, 1, 4, 4)), ["c"])], "one image per class"),
        (["a"], [Column("x", np.zeros((1, 1, 4, 4)), [])], "one image per class"),
        (
            ["a"],
            [Column(str(n), np.zeros((1, 1, n, 4)), ["c"]) for n in (4, 5)],
            "of one size",
        ),
    ],
)
def test_what_cannot_be_drawn_is_named(names, columns, message) -> None:
    with pytest.raises(InputError, match=message):
        sheet(names, columns)
