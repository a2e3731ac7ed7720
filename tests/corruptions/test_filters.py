"""Blurs, enlargements and mirrors against SciPy and NumPy; streaks and clouds by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from mithridate.corruptions import filters
from mithridate.rng import by_row, child, rng

SHAPES = [(8, 8), (28, 28), (33, 20), (3, 40)]


def image(shape, seed=0):
    return torch.rand((1, 1, *shape), generator=rng(seed))


def draws(count):
    return by_row(child(rng(0), "test", rows=torch.arange(count)), count)


@pytest.mark.parametrize(("twice", "mode"), [(True, "symmetric"), (False, "reflect")])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_mirrors(twice, mode, size):
    wanted = np.pad(np.arange(size), 9, mode)
    places = filters.mirrored(torch.arange(-9, size + 9), size, twice=twice)
    assert places.tolist() == wanted.tolist()
    assert filters.mirrored(torch.arange(-3, 4), 1, twice=twice).tolist() == [0] * 7


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", [0.05, 0.25, 0.4, 1.3, 6.4])
@pytest.mark.parametrize(("border", "mode"), [("edge", "nearest"), ("twice", "reflect")])
def test_gaussian_blur_is_that_of_scipy(shape, sigma, border, mode):
    x = image(shape)
    wanted = ndimage.gaussian_filter(x[0, 0].double().numpy(), sigma, mode=mode, truncate=3)
    out = filters.blurred(x, sigma, truncate=3, border=border)[0, 0]
    np.testing.assert_allclose(out.numpy(), wanted, atol=3e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("twice", "mode"), [(True, "reflect"), (False, "mirror")])
def test_bilinear_reading_is_that_of_scipy(shape, twice, mode):
    x = image(shape)
    places = 60 * torch.rand((2, 1, *shape), generator=rng(1)) - 15
    wanted = ndimage.map_coordinates(x[0, 0].numpy(), places[:, 0].numpy(), order=1, mode=mode)
    out = filters.bilinear(x, places[0], places[1], twice=twice)[0, 0]
    np.testing.assert_allclose(out.numpy(), wanted, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", [1.0, 1.06, 1.25, 1.75, 2.25])
def test_an_enlargement_is_that_of_scipy(shape, factor):
    x, small = image(shape), [int(np.ceil(size / factor)) for size in shape]
    top, left = ((size - part) // 2 for size, part in zip(shape, small, strict=True))
    middle = x[0, 0, top : top + small[0], left : left + small[1]].numpy()
    big = ndimage.zoom(middle, factor, order=1)
    top, left = ((got - size) // 2 for got, size in zip(big.shape, shape, strict=True))
    wanted = big[top : top + shape[0], left : left + shape[1]]
    np.testing.assert_allclose(filters.enlarged(x, factor)[0, 0].numpy(), wanted, atol=1e-5)


def test_a_streak_goes_one_way_in_half_a_gaussian():
    x = torch.zeros(4, 1, 9, 9)
    x[:, 0, 4, 4] = 1
    out = filters.streaked(x, 2, 1.0, torch.tensor([0.0, 90.0, 180.0, 45.0]))[:, 0]
    weights = np.exp(-(np.arange(5.0) ** 2) / 2)
    weights = torch.from_numpy(weights / weights.sum()).float()
    torch.testing.assert_close(out[0, 4, :5].flip(0), weights)  # what lies to the right comes here
    torch.testing.assert_close(out[1, :5, 4].flip(0), weights)
    torch.testing.assert_close(out[2, 4, 4:], weights)
    torch.testing.assert_close(out.sum((1, 2)), torch.ones(4))
    diagonal = out[3].diagonal()[:5].flip(0)
    assert float(diagonal[0]) == pytest.approx(float(weights[0]))
    assert float(diagonal.sum()) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 8, 8), (3, 1, 33, 20), (1, 1, 1, 1)])
def test_clouds_lie_between_0_and_1(shape):
    clouds = filters.plasma(shape, 2.0, draws(shape[0]))
    assert clouds.shape == (shape[0], 1, *shape[2:])
    assert 0 <= float(clouds.min()) <= float(clouds.max()) <= 1
    if shape[2] == shape[3] > 1:  # the whole map, so that both ends are in it
        assert clouds.amin((1, 2, 3)).tolist() == [0] * shape[0]
        assert clouds.amax((1, 2, 3)).tolist() == [1] * shape[0]


def test_a_faster_decay_makes_smoother_clouds():
    steps = [
        float(filters.plasma((20, 1, 32, 32), decay, draws(20)).diff(dim=3).abs().mean())
        for decay in (1.75, 2.0, 2.5, 3.0)
    ]
    assert steps == sorted(steps, reverse=True)
