"""Spatial smoothing against SciPy, by hand, and as a defence of a trained network."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from mithridate import rng as random
from mithridate.attacks import PGD, run_attack
from mithridate.data import load_data
from mithridate.defenses.transform import SpatialSmoothing
from mithridate.errors import InputError
from mithridate.goals import Untargeted
from mithridate.networks import create
from mithridate.training import fit

WINDOWS = range(2, 8)


def images(n=3, channels=2, size=(9, 8), levels=None):
    x = torch.rand((n, channels, *size), generator=random.rng(0))
    return x if levels is None else (x * levels).round() / levels


def smooth(x, kind, window):
    return SpatialSmoothing(kind=kind, window=window).transform(x)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("levels", [None, 3])
def test_median_is_scipys_bit_by_bit(window, levels):
    """Ties too. SciPy takes the greater of two in the middle, and mirrors, as stated."""
    x = images(levels=levels)
    expected = ndimage.median_filter(x.numpy(), size=(1, 1, window, window), mode="reflect")
    assert np.array_equal(smooth(x, "median", window).numpy(), expected)
    fast = x.contiguous(memory_format=torch.channels_last)
    assert np.array_equal(smooth(fast, "median", window).numpy(), expected)


@pytest.mark.parametrize("window", WINDOWS)
def test_means_are_scipys(window):
    x = images()

    def mean(values):
        return ndimage.uniform_filter(values, size=(1, 1, window, window), mode="reflect")

    plain = x.double().numpy()
    expected = {
        "mean": mean(plain),
        "half-power-mean": mean(plain**0.5) ** 2,
        "sharpen": (2 * plain - mean(plain)).clip(0, 1),
    }
    for kind, values in expected.items():
        np.testing.assert_allclose(smooth(x, kind, window).numpy(), values, atol=1e-6)


def test_an_image_as_large_as_the_window_and_one_that_is_smaller():
    x = images(size=(7, 7))
    assert smooth(x, "median", 7).shape == x.shape
    for kind in ("median", "mean"):
        with pytest.raises(InputError, match="images of 6 x 9 are smaller than the window, 7") as e:
            smooth(images(size=(6, 9)), kind, 7)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "settings", [{"window": 1}, {"window": 8}, {"window": 3.5}, {"kind": "mode"}]
)
def test_bad_settings(settings):
    with pytest.raises(InputError, match=r"window is a whole|kind is one of"):
        SpatialSmoothing(**settings)


@pytest.mark.parametrize("window", [2, 3, 5])
@pytest.mark.parametrize("kind", ["median", "mean", "half-power-mean", "sharpen"])
def test_gradients_are_those_of_finite_differences(kind, window):
    """Away from ties, from black and from where sharpening is cut."""
    x = images(1, 1, (5, 5)).double()
    x = 0.4 + 0.2 * x if kind == "sharpen" else 0.1 + 0.8 * x
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: smooth(x, kind, window), x)


def gradient(x, kind, window, at):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(smooth(x, kind, window)[0, 0][at], x)[0][0, 0]


def test_the_medians_gradient_goes_to_the_pixel_chosen():
    x = torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.0, 0.5], [0.3, 0.7, 0.6]]).view(1, 1, 3, 3)
    assert (gradient(x, "median", 3, (1, 1)) == (x[0, 0] == 0.5)).all()
    # Mirrored at the corner, the window holds 0.0, 0.1 four times, 0.8 and 0.9 twice.
    assert gradient(x, "median", 3, (0, 0)).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    # An even window of 0.1 0.9 0.8 0.0: the greater of the middle two, 0.8.
    assert (gradient(x, "median", 2, (1, 1)) == (x[0, 0] == 0.8)).all()


def test_the_medians_gradient_is_shared_by_equals():
    x = torch.tensor([[0.5, 0.9, 0.2], [0.8, 0.5, 0.5], [0.3, 0.5, 0.6]]).view(1, 1, 3, 3)
    assert (gradient(x, "median", 3, (1, 1)) == 0.25 * (x[0, 0] == 0.5)).all()


def test_the_half_power_means_gradient_is_finite_at_black():
    """All black: 1/9 each, as the mean's. One white: d/dx of ((8 sqrt(g) + 1) / 9) ** 2."""
    x = torch.zeros(1, 1, 3, 3)
    torch.testing.assert_close(
        gradient(x, "half-power-mean", 3, (1, 1)), torch.full((3, 3), 1 / 9), rtol=1e-4, atol=0
    )
    x[0, 0, 0, 0] = 1
    slopes = gradient(x, "half-power-mean", 3, (1, 1))
    root = (1 / 255) ** 0.5
    mean = (8 * root + 1) / 9
    assert float(slopes[0, 0]) == pytest.approx(mean / 9, rel=1e-4)
    assert float(slopes[2, 2]) == pytest.approx(mean / 9 / root, rel=1e-4)
    assert float(smooth(x, "half-power-mean", 3)[0, 0, 1, 1]) == pytest.approx(1 / 81)


def test_bright_stays_bright():
    for kind in ("median", "mean", "half-power-mean", "sharpen"):
        torch.testing.assert_close(
            smooth(torch.full((1, 1, 8, 8), 0.7), kind, 4), torch.full((1, 1, 8, 8), 0.7)
        )


@pytest.fixture(scope="module")
def digits():
    train, test = load_data("digits")
    net = create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    return fit(net, train, epochs=8, rng=random.rng(0)), *test.batch(range(100))


@pytest.mark.parametrize("kind", ["median", "mean", "half-power-mean", "sharpen"])
def test_on_a_trained_network_knowing_the_defence_helps_the_attacker(digits, kind):
    """The same attack, once through the bare network and once through the smoothed one."""
    model, x, y = digits
    smoothed = SpatialSmoothing(kind=kind).wrap(model)
    attack = PGD(eps=0.15, steps=20, step_size=0.03)
    left = {}
    for name, through in {"oblivious": model, "adaptive": None}.items():
        r = run_attack(attack, smoothed, x, Untargeted(y), through=through, rng=random.rng(0))
        assert torch.equal(r.predicted, smoothed.labels(r.adversarials))
        left[name] = int((~r.success).sum())
    clean = int((smoothed.labels(x) == y).sum())
    assert left["adaptive"] < left["oblivious"] <= clean, (left, clean)


def test_the_record_names_the_chain(digits):
    model, x, _ = digits
    inner = SpatialSmoothing(kind="mean", window=2).wrap(model)
    outer = SpatialSmoothing().wrap(inner)
    assert [d["kind"] for d in outer.info["defenses"]] == ["mean", "median"]
    assert "defenses" not in model.info
    first = SpatialSmoothing().transform(x)
    second = SpatialSmoothing(kind="mean", window=2).transform(first)
    torch.testing.assert_close(outer.logits(x), model.logits(second), rtol=1e-4, atol=1e-4)
