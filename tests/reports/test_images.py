from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mithridate.reports import images
from mithridate.reports.images import Scale


def pixels(picture):
    kind, _, text = picture.uri.partition(",")
    assert kind == "data:image/png;base64"
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    assert decoded.shape[:2] == (picture.height, picture.width)
    return decoded


def test_grey_levels_are_linear_in_the_scale():
    image = np.array([[[0.0, 0.25], [0.5, 2.0]]])
    got = pixels(images.plain(image, Scale(0.0, 0.5)))
    np.testing.assert_array_equal(got, [[0, 128], [255, 255]])


def test_colour_channels_keep_their_place():
    image = np.zeros((3, 2, 2))
    image[0, 0, 0] = image[1, 0, 1] = image[2, 1, 0] = 1
    got = pixels(images.plain(image))
    assert got[0, 0].tolist() == [255, 0, 0]
    assert got[0, 1].tolist() == [0, 255, 0]
    assert got[1, 0].tolist() == [0, 0, 255]


def test_nan_is_transparent_and_an_empty_image_is_none():
    image = np.array([[[np.nan, 1.0]]])
    got = pixels(images.plain(image))
    assert got[0, 0, 3] == 0
    assert got[0, 1].tolist() == [255, 255, 255, 255]
    assert images.plain(np.full((1, 2, 2), np.nan)) is None
    assert images.signed(np.full((1, 2, 2), np.nan), Scale(-1, 1)) is None


def test_differences_are_orange_above_blue_below_and_clear_at_zero():
    got = pixels(images.signed(np.array([[[0.5, -1.0, 0.0]]]), Scale(-1.0, 1.0)))
    assert tuple(got[0, 0]) == (*images.ABOVE, 128)
    assert tuple(got[0, 1]) == (*images.BELOW, 255)
    assert got[0, 2, 3] == 0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_scales_cover_their_values(values):
    array = np.array(values)
    scale = images.shared_scale(array, None)
    assert scale.low <= array.min() <= array.max() <= scale.high
    assert scale.low < scale.high
    both = images.signed_scale(array)
    assert both.low == -both.high
    assert np.abs(array).max() <= both.high


@pytest.mark.parametrize("array", [None, np.array([np.nan])])
def test_scale_of_nothing(array):
    assert images.shared_scale(array) == Scale(0.0, 1.0)
