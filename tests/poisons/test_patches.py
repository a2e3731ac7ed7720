from __future__ import annotations

import pytest
import torch

from mithridate.errors import InputError
from mithridate.poisons import Box, patch_mask, patch_names
from mithridate.poisons.triggers import Patch

Ranges = list[tuple[slice, slice]]

PUBLISHED: dict[str, Ranges] = {
    "c-top-right": [
        (slice(1, 3), slice(21, 27)),
        (slice(5, 7), slice(21, 27)),
        (slice(3, 5), slice(21, 23)),
    ],
    "checker-top-left": [
        (slice(1, 3), slice(1, 3)),
        (slice(1, 3), slice(5, 7)),
        (slice(3, 5), slice(3, 5)),
        (slice(5, 7), slice(1, 3)),
        (slice(5, 7), slice(5, 7)),
    ],
    "r-bottom-left": [
        (slice(21, 27), slice(1, 3)),
        (slice(23, 25), slice(3, 5)),
        (slice(21, 23), slice(3, 7)),
        (slice(25, 27), slice(5, 7)),
    ],
    "square-bottom-right": [
        (slice(21, 23), slice(21, 27)),
        (slice(25, 27), slice(21, 27)),
        (slice(23, 25), slice(21, 23)),
        (slice(23, 25), slice(25, 27)),
    ],
}
"""Half-open rows and columns of the four attacks of Borji 2020, experiment I."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_masks(name: str) -> None:
    expected = torch.zeros(1, 28, 28, dtype=torch.bool)
    for rows, cols in PUBLISHED[name]:
        expected[0, rows, cols] = True
    assert torch.equal(patch_mask(name, (1, 28, 28)), expected)
    top = 1 if "top" in name else 21
    left = 1 if "left" in name else 21
    assert Patch.named(name).box() == Box(top, left, top + 6, left + 6)


def test_hollow_square_on_colour_images() -> None:
    mask = patch_mask("hollow-square", (3, 32, 32))
    assert mask.shape == (3, 32, 32)
    assert Patch(mask=mask).box() == Box(21, 21, 31, 31)
    assert mask[0].sum() == 10 * 10 - 6 * 6
    assert not mask[:, 23:29, 23:29].any()
    assert torch.equal(mask[0], mask[2])


@pytest.mark.parametrize("name", patch_names())
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 40)])
def test_every_patch_lies_in_its_corner(name: str, shape: tuple[int, int, int]) -> None:
    mask = patch_mask(name, shape)[0]
    assert mask.any()
    height, width = shape[1:]
    box = Patch(mask=mask).box()
    # An open-sided shape may leave its last column blank, never more than one cell.
    assert (box.top + box.bottom < height) == ("-top-" in name)
    assert (box.left + box.right < width) == name.endswith("left")


def test_small_digits_keep_their_middle() -> None:
    mask = patch_mask("block-bottom-left", (1, 8, 8))[0]
    assert mask.nonzero().tolist() == [[6, 0], [6, 1], [7, 0], [7, 1]]


def test_unknown_or_too_large() -> None:
    with pytest.raises(InputError, match="did you mean 'c-top-right'"):
        patch_mask("c-topright", (1, 28, 28))
    with pytest.raises(InputError, match="choose a smaller shape"):
        patch_mask("hollow-square", (1, 4, 4))
    with pytest.raises(InputError, match="image_shape"):
        patch_mask("c-top-right", (28, 28))  # type: ignore[arg-type]
