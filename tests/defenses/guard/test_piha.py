"""PIHA against its definition, pixel by pixel, and in the way of queries."""

import colorsys
import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d, map_coordinates

from mithridate.defenses.guard import PIHA
from mithridate.errors import InputError, QueriesRefused
from mithridate.rng import rng
from mithridate.testing.checks import refusal

X = torch.rand((12, 3, 20, 17), generator=rng(0))


def codes(image, block):
    """The bits of each block, by colorsys and scipy, as a set of directions."""
    kernel = np.exp([-0.5, 0, -0.5]) / np.exp([-0.5, 0, -0.5]).sum()
    pixels = image.double().numpy()
    for axis in (1, 2):
        pixels = correlate1d(pixels, kernel, axis=axis, mode="mirror")
    plane = pixels.mean(0)
    if len(pixels) == 3:
        plane = np.apply_along_axis(lambda rgb: colorsys.rgb_to_hsv(*rgb)[0], 0, pixels)
    height, width = (math.ceil(side / block) for side in plane.shape)
    sums = np.zeros((height, width))
    for (row, column), value in np.ndenumerate(plane):
        sums[row // block, column // block] += value
    angles = [math.pi * k / 4 for k in range(8)]
    return [
        {
            k
            for k, angle in enumerate(angles)
            if map_coordinates(
                np.pad(sums, 2), [[r + 2 - math.sin(angle)], [c + 2 + math.cos(angle)]], order=1
            )
            >= sums[r, c] - 1e-9
        }
        for r in range(height)
        for c in range(width)
    ]


@pytest.mark.parametrize("x", [X, X[:, :1], X[:, :2]], ids=["hue", "grey", "two"])
@pytest.mark.parametrize("block", [3, 5, 7])
def test_codes_differ_where_the_definition_says(x, block):
    mine, theirs = PIHA(block=block).hashes(x), [codes(image, block) for image in x]
    assert mine.shape[1] == len(theirs[0])
    bits = {}
    for row, sets in zip(mine.tolist(), theirs, strict=True):
        for code, directions in zip(row, sets, strict=True):
            assert code.bit_count() == len(directions)
            assert bits.setdefault(code, directions) == directions


@pytest.mark.parametrize(
    ("change", "refused"),
    [(lambda x: x, True), (lambda x: 0.9 * x, True), (lambda x: 1 - x.flip(3), False)],
)
def test_a_query_is_refused_where_its_hash_is_near_another(change, refused):
    watch = PIHA(block=3).watcher()
    watch(X)
    with pytest.raises(QueriesRefused) if refused else nullcontext():
        watch(change(X[:1]))


def test_grey_images_are_told_apart():
    """Their hue is 0 all over: by it, any two would be one."""
    PIHA(block=3).watcher()(X[:, :1])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: PIHA(block=0), "block must be at least 1"),
        (lambda: PIHA(threshold=1), "threshold must be below 1"),
        (lambda: PIHA(block=17).watcher()(X), "images of 20 x 17 have fewer than 2 x 2 blocks"),
    ],
)
def test_what_is_refused(call, text):
    with pytest.raises(InputError, match=text):
        call()
    refusal(call)
