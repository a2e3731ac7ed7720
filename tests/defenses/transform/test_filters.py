"""Transforms against SciPy, scikit-learn and Pillow, by optimality, and by hand."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn import decomposition

from mithridate.attacks import PGD, run_attack
from mithridate.data import ImageSet, load_data
from mithridate.defenses import transform as transforms
from mithridate.defenses.guard import QueryGuard
from mithridate.defenses.transform.total_variation import slopes
from mithridate.errors import InputError
from mithridate.goals import Untargeted
from mithridate.networks import create
from mithridate.networks.autoencoder import Autoencoder
from mithridate.networks.gan_training import fit_wgan
from mithridate.networks.wgan import WGAN
from mithridate.rng import rng
from mithridate.testing import linear_model
from mithridate.testing.checks import refusal, untouched
from mithridate.training import fit


def images(*shape):
    return torch.rand(shape, generator=rng(0))


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_bit_depth_is_numpys_rint(bits):
    x, levels = images(2, 3, 5, 4), 2**bits - 1
    out = transforms.BitDepth(bits=bits).transform(x)
    assert np.array_equal(out.numpy(), np.rint(x.numpy() * levels) / np.float32(levels))


@pytest.mark.parametrize(("sigma", "size"), [(0.5, (9, 8)), (1.3, (8, 11)), (5.0, (4, 3))])
def test_low_pass_is_scipys(sigma, size):
    x = images(2, 2, *size)
    expected = ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="reflect")
    out = transforms.LowPass(sigma=sigma).transform(x)
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("quality", [20, 75])
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_jpeg_is_pillows_and_its_stand_in_comes_near(quality, channels, mode):
    x = torch.nn.functional.interpolate(images(2, channels, 5, 6), (19, 22), mode="bicubic")
    x = x.clamp(0, 1)
    transform = transforms.JPEG(quality=quality)
    out = transform.transform(x)
    for image, coded in zip(x, out, strict=True):
        file = io.BytesIO()
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels.squeeze(), mode).save(file, "JPEG", quality=quality)
        expected = np.asarray(Image.open(file), dtype=np.float32) / np.float32(255)
        assert np.array_equal(coded.permute(1, 2, 0).numpy().squeeze(), expected)
    near = 2 * transform.surrogate(x) - x  # without the identity's half
    assert (near - out).abs().mean() < 0.25 * (x - out).abs().mean() + 0.004


def test_pca_is_scikit_learns(digits):
    train, test = digits
    x, test_x = (data.batch(range(300))[0] for data in (train, test))
    pca = transforms.PCA(components=12).fit(train.subset(range(300)), rng=rng(0))
    oracle = decomposition.PCA(12, svd_solver="full").fit(x.flatten(1).numpy())
    expected = oracle.inverse_transform(oracle.transform(test_x.flatten(1).numpy())).clip(0, 1)
    np.testing.assert_allclose(pca.transform(test_x).flatten(1).numpy(), expected, atol=1e-4)
    whole = transforms.PCA(components=64).fit(train, rng=rng(0))
    torch.testing.assert_close(whole.transform(test_x), test_x, rtol=0, atol=1e-4)


def test_soft_thresholds_are_of_an_orthonormal_basis():
    """None: the image; all: means of squares; between: the proximal point, by its optimality."""
    x = images(2, 3, 8, 12)
    soft = transforms.SoftThreshold
    torch.testing.assert_close(soft(threshold=0, levels=2).transform(x), x)
    means = torch.nn.functional.avg_pool2d(x, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(soft(threshold=9, levels=2).transform(x), means)
    out = soft(threshold=0.2, levels=1).surrogate(x)
    a, b, c, d = (x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1))
    e, f, g, h = (out[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1))
    for before, after in (
        ((a - b + c - d) / 2, (e - f + g - h) / 2),
        ((a + b - c - d) / 2, (e + f - g - h) / 2),
        ((a - b - c + d) / 2, (e - f - g + h) / 2),
    ):
        shrunk = before.sign() * (before.abs() - 0.2).clamp(min=0)
        torch.testing.assert_close(after, shrunk, rtol=0, atol=1e-6)
    odd = images(1, 1, 7, 5)
    torch.testing.assert_close(soft(threshold=0, levels=2).transform(odd), odd)


def test_total_variation_closes_the_duality_gap():
    """A step edge in one dimension is known: each side moves by weight / its length."""
    x = torch.cat([torch.zeros(1, 1, 8, 4), torch.ones(1, 1, 8, 4)], 3)
    out = transforms.TotalVariation(weight=0.4, steps=2000).transform(x)
    expected = torch.cat([torch.full((1, 1, 8, 4), 0.1), torch.full((1, 1, 8, 4), 0.9)], 3)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-3)
    x, weight = images(1, 1, 9, 7), 0.2
    out = transforms.TotalVariation(weight=weight, steps=300).transform(x)

    def energy(z):
        return (z - x).square().sum() / 2 + weight * slopes(z).square().sum(0).sqrt().sum()

    for _ in range(20):
        near = out + 0.02 * (torch.rand(out.shape, generator=rng(_)) - 0.5)
        assert energy(out) < energy(near)
    assert (
        energy(out) < energy(transforms.TotalVariation(weight=weight, steps=50).transform(x)) + 1e-5
    )


def test_resized_is_a_small_copy_somewhere_on_black():
    x = images(200, 1, 10, 12) / 2 + 0.5
    transform = transforms.ResizeAndPad(smallest=0.5)
    out = transform.transform(x)
    sizes = set()
    for image, moved in zip(x[:, 0], out[:, 0], strict=True):
        rows, columns = ((moved > 0).any(axis).nonzero()[:, 0] for axis in (1, 0))
        height, width = len(rows), len(columns)
        assert rows.tolist() == list(range(int(rows[0]), int(rows[0]) + height))
        wanted = image[torch.arange(height) * 10 // height][:, torch.arange(width) * 12 // width]
        assert torch.equal(moved[rows][:, columns], wanted)
        assert abs(height / 10 - width / 12) < 0.1
        sizes.add(height)
    assert sizes == set(range(5, 11))
    assert not torch.equal(transform.transform(x), out), "every call draws anew"
    assert torch.equal(replace(transform).transform(x), out), "and a new one begins at its seed"


def test_who_knows_that_it_draws_has_the_mean_of_his_own_draws():
    model, x = linear_model((1, 8, 8), classes=3), images(4, 1, 8, 8)
    transform = transforms.ResizeAndPad(eot=5)
    view = transform.wrap(model).attacker()
    own = replace(transform, seed=1)
    drawn = [model.scores(own.transform(x)) for _ in range(5)]
    torch.testing.assert_close(view.scores(x), torch.stack(drawn).mean(0))


def test_an_attack_does_not_stop_at_the_first_draw_that_it_fools():
    """What it ends with fools 50 further draws nearly always; from the mean's edge half of them."""
    model, x = linear_model((1, 8, 8), classes=3), images(30, 1, 8, 8)
    wrapped = transforms.ResizeAndPad(smallest=0.9, eot=10).wrap(model)
    labels = model.labels(x)
    attack = PGD(eps=0.4, steps=20, step_size=0.05)
    r = run_attack(attack, wrapped, x, Untargeted(labels), rng=rng(0))
    again = torch.stack([wrapped.labels(r.adversarials) != labels for _ in range(50)])
    assert again.float().mean() > 0.95
    assert wrapped.draws
    assert transforms.LowPass().wrap(wrapped).draws


def test_defense_gan_gives_what_the_generator_makes_and_each_image_its_own():
    gan = WGAN((1, 8, 8), latent=4, width=0.1)
    x = gan.generate(torch.randn((6, 4), generator=rng(1)))
    defense = transforms.DefenseGAN(generator=gan, steps=150, restarts=4)
    near = defense.transform(x)
    assert (near - x).abs().max() < 0.02
    with torch.inference_mode():
        torch.testing.assert_close(defense.transform(x[2:3]), near[2:3])


def test_who_knows_defense_gan_sees_what_a_change_of_the_image_does_to_it():
    """On what the generator makes, the search is a projection: its slope against differences."""
    gan = WGAN((1, 8, 8), latent=4, width=0.1)
    x = gan.generate(torch.randn((3, 4), generator=rng(1)))
    defense = transforms.DefenseGAN(generator=gan, steps=200, restarts=2)
    view = defense.wrap(linear_model((1, 8, 8))).attacker()
    change, weight = (torch.randn(x.shape, generator=rng(seed)) for seed in (2, 3))
    x.requires_grad_()
    (slope,) = torch.autograd.grad((defense.through_codes(x) * weight).sum(), x)
    step = 1e-3 * change
    moved = defense.transform(x.detach() + step) - defense.transform(x.detach() - step)
    told, seen = ((a * b).flatten(1).sum(1) for a, b in ((slope, 2 * step), (moved, weight)))
    torch.testing.assert_close(told, seen, rtol=0.1, atol=2e-4)
    assert torch.equal(view.logits(x.detach()), defense.wrap(linear_model((1, 8, 8))).logits(x))


def test_who_knows_defense_gan_fools_more_than_who_ignores_it(digits):
    train, test = digits
    model = fit(
        create("digits-cnn", image_shape=(1, 8, 8), classes=10), train, epochs=5, rng=rng(0)
    )
    settings = {"steps": 100, "latent": 8, "width": 0.2, "lr": 2e-3, "batch_size": 32}
    gan = fit_wgan(train, **settings, critic_steps=2, rng=rng(0))
    wrapped = transforms.DefenseGAN(generator=gan, steps=20, restarts=2, lr=0.3).wrap(model)
    x, labels = test.batch(range(40))
    kept = wrapped.labels(x) == labels
    x, goal = x[kept], Untargeted(labels[kept])
    pgd = PGD(eps=0.2, steps=8)
    fooled = [
        int(run_attack(pgd, wrapped, x, goal, rng=0, through=seen).success.sum())
        for seen in (None, model)
    ]
    assert fooled[0] > fooled[1]


def test_the_reformer_learns_to_take_noise_away(digits):
    train, test = digits
    x = test.batch(range(200))[0]
    noisy = (x + 0.3 * torch.randn(x.shape, generator=rng(1))).clamp(0, 1)
    reformer = transforms.MagNet(noise=0.3).fit(train, rng=rng(0))
    assert (reformer.transform(noisy) - x).square().mean() < (noisy - x).square().mean() / 2
    assert Autoencoder((3, 9, 8))(images(2, 3, 9, 8)).shape == (2, 3, 9, 8)


@pytest.mark.parametrize(
    "transform", [transforms.PCA(components=5), transforms.MagNet(epochs=1, width=1)]
)
def test_learning_leaves_its_images_and_is_seeded(digits, transform):
    data = digits[0].subset(range(100))
    with untouched(set=data):
        one = transform.fit(data, rng=rng(3))
    two, x = transform.fit(data, rng=rng(3)), images(4, 1, 8, 8)
    assert torch.equal(one.transform(x), two.transform(x))
    assert transform.learned is None


DATA = ImageSet(torch.zeros(5, 1, 8, 8).byte(), [0] * 5, ["a"])
GAN = WGAN((1, 9, 9), latent=4, width=0.1)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: transforms.BitDepth(bits=0), "bits must be at least 1"),
        (lambda: transforms.LowPass(sigma=0), "sigma must be above 0"),
        (lambda: transforms.JPEG(quality=100), "quality must be at most 95"),
        (lambda: transforms.JPEG().transform(images(1, 2, 8, 8)), "got 2 channels"),
        (lambda: transforms.SoftThreshold(levels=4).transform(images(1, 1, 8, 8)), "8 x 8 .* 16"),
        (lambda: transforms.PCA(components=65).fit(DATA, rng=rng(0)), "an image has 64 values"),
        (lambda: transforms.PCA(components=5).fit(DATA, rng=rng(0)), "more images than 5"),
        (lambda: transforms.PCA().wrap(linear_model()), "pca learns .* fit"),
        (lambda: transforms.MagNet().transform(images(1, 1, 8, 8)), "magnet learns .* fit"),
        (lambda: transforms.DefenseGAN(generator="a.safetensors"), "generator is a WGAN, got str"),
        (
            lambda: transforms.DefenseGAN(generator=GAN).transform(images(1, 1, 8, 8)),
            "takes float N x 1 x 9 x 9.* train one on such images",
        ),
        (
            lambda: transforms.BitDepth().wrap(QueryGuard().wrap(linear_model())),
            "got Guarded: put it in front of the model, and any guard after it",
        ),
    ],
)
def test_what_is_refused(call, text):
    with pytest.raises(InputError, match=text):
        call()
    refusal(call)
