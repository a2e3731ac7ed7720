"""Each corruption against what it is said to be: closed forms, SciPy, Pillow, and real digits."""

from __future__ import annotations

import colorsys
import io
import itertools
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

import mithridate as mi
from mithridate import component
from mithridate.corruptions.blur import _disk
from mithridate.corruptions.digital import _pulled
from mithridate.errors import InputError
from mithridate.rng import rng

NAMES = component.in_order("corruptions")
SEVERITIES = range(1, 6)
SHAPES = [(1, 8, 8), (3, 32, 32), (3, 33, 20)]


@cache
def digits():
    """Test digits brought to 32 x 32."""
    test = mi.load_data("digits", resize=32)[1]
    return test.subset(range(0, 360, 6))


def noise(shape, count=4):
    return (torch.rand((count, *shape), generator=rng(0)) * 255).round() / 255


def flat(value, size=64):
    return torch.full((6, 1, size, size), value)


def make(name, severity=3):
    return component.create("corruptions", name, {"severity": severity})


def test_there_are_the_fifteen():
    assert len(NAMES) == 15
    classes = {component.find("corruptions", name).__name__ for name in NAMES}
    assert classes == set(mi.corruptions.__all__) - {"Corruption", "corrupt"}


def test_a_set_by_name():
    _, test = mi.load_data("digits")
    foggy = mi.corrupt(test, "fog", severity=3, rng=0)
    assert (foggy.name, len(foggy)) == ("digits/test fog 3", len(test))
    assert torch.equal(foggy.raw([3]), mi.corrupt(test, mi.corruptions.Fog(), rng=0).raw([3]))
    x = test.batch(range(360))[0]
    assert torch.equal(foggy.batch(range(360))[0], make("fog").apply(x, rng=0))
    other = mi.corrupt(test, "fog", severity=3, rng=1)
    assert not torch.equal(other.raw([3]), foggy.raw([3]))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"corruption": "frog"}, "did you mean 'frost'|did you mean 'fog'"),
        ({"corruption": "fog", "severity": 6}, "severity must be at most 5"),
        ({"corruption": "fog", "severity": 2.5}, "severity is a whole number"),
        ({"corruption": 3}, "a corruption is a name"),
        ({"corruption": "fog", "rows": [400]}, "rows 0..359"),
        ({"corruption": "fog", "rng": "0"}, "a seed is an integer"),
    ],
)
def test_mistakes_are_one_line(given, words):
    with pytest.raises(InputError, match=words) as caught:
        mi.corrupt(mi.load_data("digits")[1], **{"rng": 0, **given})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [torch.zeros(1, 1, 8, 8), "digits", (1, 2)], ids=["x", "name", "2"]
)
def test_what_is_no_set_is_told(data):
    with pytest.raises(InputError, match="corrupt takes an ImageSet"):
        mi.corrupt(data, "fog", rng=0)


@pytest.mark.parametrize(
    "name",
    [n for n in NAMES if n not in ("glass-blur", "elastic-transform", "frost", "pixelate")],
)
def test_more_severe_is_more_distant(name):
    """On average over real digits.

    Glass blur, elastic transform and frost are published otherwise: their parameters are no scale
    of one thing. What pixelate does to digits that were 8 x 8 hangs on how the grids meet.
    """
    x = digits().batch(range(60))[0]
    far = [
        float((make(name, k).apply(x, rng=0) - x).flatten(1).norm(dim=1).mean()) for k in SEVERITIES
    ]
    assert far[0] > 0
    assert all(b > a for a, b in itertools.pairwise(far)), far


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_its_deviation(severity):
    sigma = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    change = make("gaussian-noise", severity).apply(flat(0.5), rng=0) - 128 / 255
    assert float(change.std()) == pytest.approx(sigma, rel=0.02)
    assert abs(float(change.mean())) < 4 * sigma / np.sqrt(change.numel())
    between = change.flatten().double().numpy() + (rng_uniform(change.numel()) - 0.5) / 255
    assert stats.kstest(between, "norm", (0, sigma)).pvalue > 1e-3


def rng_uniform(count):
    return torch.rand(count, generator=rng(5), dtype=torch.float64).numpy()


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("level", [5, 51, 128])
def test_shot_noise_is_poisson(severity, level):
    photons = (500, 250, 100, 75, 50)[severity - 1]
    one = make("shot-noise", severity)
    counts = one.change(flat(level / 255), _draws(6)) * photons
    assert torch.allclose(counts, counts.round(), atol=1e-4)
    mean = level / 255 * photons
    deviation = np.sqrt(mean / counts.numel())
    assert float(counts.mean()) == pytest.approx(mean, abs=4 * deviation)
    assert float(counts.var()) == pytest.approx(mean, rel=0.05)
    seen = np.bincount(counts.flatten().round().long().numpy())
    wanted = stats.poisson.pmf(np.arange(len(seen)), mean) * counts.numel()
    many = wanted > 10
    statistic = float(((seen - wanted)[many] ** 2 / wanted[many]).sum())
    assert stats.chi2.sf(statistic, int(many.sum()) - 1) > 1e-3


def _draws(count):
    from mithridate.rng import by_row, child

    return by_row(child(rng(0), rows=torch.arange(count)), count)


def test_no_photons_no_noise():
    assert not make("shot-noise", 5).apply(flat(0.0), rng=0).any()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_changes_its_share(severity):
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    out = make("impulse-noise", severity).apply(torch.full((6, 3, 64, 64), 0.2), rng=0)
    for value in (0, 1):
        k = int((out == value).sum())
        assert stats.binomtest(k, out.numel(), share / 2).pvalue > 1e-3
    left = out[(out > 0) & (out < 1)]
    assert left.unique().tolist() == [torch.tensor(51 / 255).item()]
    coloured = (out != out[:, :1]).any(1)  # channel by channel
    assert float(coloured.float().mean()) > share


@pytest.mark.parametrize(
    "name", ["defocus-blur", "glass-blur", "motion-blur", "zoom-blur", "contrast", "pixelate",
             "elastic-transform"],
)  # fmt: skip
@pytest.mark.parametrize("severity", SEVERITIES)
def test_what_moves_pixels_keeps_an_even_image(name, severity):
    for level in (0, 51, 200, 255):
        x = torch.full((2, 3, 32, 32), level / 255)
        assert torch.equal(make(name, severity).apply(x, rng=0), x)


@pytest.mark.parametrize("name", ["defocus-blur", "motion-blur"])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_a_blur_keeps_the_light(name, severity):
    x = torch.zeros(3, 1, 48, 48)
    x[:, :, 20:28, 20:28] = 0.8
    out = make(name, severity).change(x, _draws(3))
    torch.testing.assert_close(out.sum((1, 2, 3)), x.sum((1, 2, 3)))


def test_disks():
    square, plus = np.zeros((5, 5)), np.zeros((5, 5))
    square[1:4, 1:4] = 1 / 9
    plus[2, 1:4] = plus[1:4, 2] = 0.2
    np.testing.assert_allclose(_disk(1.5, 1e-3).numpy(), square)
    np.testing.assert_allclose(_disk(1, 1e-3).numpy(), plus)
    small = np.exp(-np.array([1, 0, 1]) / (2 * 0.4**2))
    small /= small.sum()
    np.testing.assert_allclose(_disk(0.3, 0.4).numpy(), np.outer(small, small))


def test_glass_takes_a_neighbours_pixel():
    x = torch.arange(64.0).view(1, 1, 8, 8) / 255
    out = (make("glass-blur", 1).apply(x, rng=0) * 255).round()[0, 0].long()
    row, column = torch.arange(8)[:, None], torch.arange(8)
    up, left = row - out // 8, column - out % 8
    assert set(up.flatten().tolist()) == set(left.flatten().tolist()) == {0, 1}
    assert not up[:2].any()
    assert not up[:, :2].any()
    assert not left[:2].any()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_fog_stays_below_the_brightest(severity):
    weight = (0.2, 0.5, 0.75, 1, 1.5)[severity - 1]
    x = noise((3, 32, 32))
    x[0] *= 0.5
    out, most = make("fog", severity).change(x, _draws(4)), x.amax((1, 2, 3), keepdim=True)
    assert bool((out <= most + 1e-6).all())
    assert bool((out >= x * most / (most + weight) - 1e-6).all())
    same = out - x * most / (most + weight)  # grey: the same in every channel
    assert float((same - same[:, :1]).abs().max()) < 1e-6


@pytest.mark.parametrize("severity", SEVERITIES)
def test_snow_and_frost_add_light(severity):
    x = noise((3, 32, 32))
    own = (0.95, 0.9, 0.9, 0.85, 0.8)[severity - 1]
    whiter = own * x + (1 - own) * torch.maximum(x, 0.5 + 1.5 * _luma(x))
    snow = make("snow", severity).change(x, _draws(4)) - whiter
    assert float(snow.min()) >= -1e-6
    torch.testing.assert_close(snow, snow.flip(2, 3), rtol=0, atol=1e-5)
    assert float(snow.mean()) > 0
    kept, weight = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    ice = (make("frost", severity).change(x, _draws(4)) - kept * x) / weight
    assert bool(((ice > -1e-5) & (ice < 1 + 1e-5)).all())
    assert 0.2 < float(ice.mean()) < 0.8


def _luma(x):
    return (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_raises_value(severity):
    by = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    x = noise((3, 6, 5))
    x[0, :, :2] = 0
    out = make("brightness", severity).change(x, _draws(4)).permute(0, 2, 3, 1).reshape(-1, 3)
    for before, after in zip(x.permute(0, 2, 3, 1).reshape(-1, 3).tolist(), out, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        wanted = colorsys.hsv_to_rgb(hue, saturation, min(1, value + by))
        np.testing.assert_allclose(after.numpy(), wanted, atol=1e-5)
    grey = noise((1, 6, 5))
    torch.testing.assert_close(
        make("brightness", severity).change(grey, _draws(4)), (grey + by).clamp(max=1)
    )


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_shrinks_around_each_channels_mean(severity):
    share = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    x = noise((3, 9, 7))
    out = make("contrast", severity).change(x, _draws(4))
    torch.testing.assert_close(out.mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(out.std((2, 3)), share * x.std((2, 3)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixels_and_files_are_pillows(shape, severity):
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    quality = (80, 65, 58, 50, 40)[severity - 1]
    x = noise(shape)
    coarse, coded = (make(n, severity).apply(x, rng=0) for n in ("pixelate", "jpeg-compression"))
    for k, image in enumerate((x * 255).round().byte().permute(0, 2, 3, 1).numpy()):
        picture = Image.fromarray(image[:, :, 0] if shape[0] == 1 else image)
        small = picture.resize([int(size * share) for size in picture.size], Image.Resampling.BOX)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        wanted = (small.resize(picture.size, Image.Resampling.BOX), Image.open(file))
        for ours, theirs in zip((coarse, coded), wanted, strict=True):
            got = (ours[k] * 255).round().byte().permute(1, 2, 0).numpy()
            assert np.array_equal(got, np.asarray(theirs).reshape(image.shape))


def test_a_pull_of_nothing_moves_nothing_and_a_shift_shifts():
    row, column = _pulled((32, 32), torch.zeros(1, 3, 2))
    torch.testing.assert_close(row[0], torch.arange(32.0)[:, None].expand(32, 32))
    torch.testing.assert_close(column[0], torch.arange(32.0).expand(32, 32))
    shift = torch.tensor([2.0, -3.0]).expand(1, 3, 2)
    row, column = _pulled((32, 20), shift)
    assert float(row[0, 10, 5]) == pytest.approx(8, abs=1e-4)
    assert float(column[0, 10, 5]) == pytest.approx(8, abs=1e-4)
    moved = torch.tensor([[[1.0, 0], [0, 2], [-1, 1]]])
    row, column = _pulled((30, 30), moved)  # 15 +- 10: each corner comes from where it was
    for (y, z), (down, right) in zip(
        [(25, 25), (25, 5), (5, 5)], moved[0].long().tolist(), strict=True
    ):
        assert float(row[0, y + down, z + right]) == pytest.approx(y, abs=1e-3)
        assert float(column[0, y + down, z + right]) == pytest.approx(z, abs=1e-3)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_pixels_stay_near(severity):
    """A ramp tells how far each pixel came: the pull's bound and the waves' (at most alpha)."""
    ramp = torch.arange(32.0).expand(8, 1, 32, 32) / 255
    change = (make("elastic-transform", severity).change(ramp, _draws(8)) - ramp) * 255
    inner = change[:, :, 8:24, 8:24].abs()
    assert float(inner.mean()) > 0.1
    assert float(inner.max()) < 12
