"""Shapes, generating, the search for codes, and the file of a generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mithridate.errors import CheckpointError, InputError, NothingAssessedError
from mithridate.networks.checkpoint import load
from mithridate.networks.storage import read_tensors, write_tensors
from mithridate.networks.wgan import WGAN, load_wgan, search
from mithridate.rng import child, rng

SHAPES = [(c, n, n) for c in (1, 3) for n in (8, 28, 32)] + [(1, 9, 13), (3, 8, 32)]


def tiny(**settings: Any) -> WGAN:
    return WGAN((1, 8, 8), **{"latent": 4, "width": 0.1, "rng": rng(1), **settings})


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_range(shape: tuple[int, int, int], batch_norm: bool) -> None:
    gan = WGAN(shape, latent=5, width=0.1, batch_norm=batch_norm)
    x = gan.generate(torch.randn(3, 5, generator=rng(0)) * 10)
    assert x.shape == (3, *shape)
    assert bool(((x >= 0) & (x <= 1)).all())
    assert gan.critic(x).shape == (3,)
    norms = [type(m) for m in gan.critic.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    assert norms == []


def test_sizes_are_those_of_the_paper_s_code() -> None:
    """MNIST at width 1: 4x4x256, 8x8x128 cut to 7x7, 14x14x64, 28x28x1; and back."""
    gan = WGAN((1, 28, 28), latent=128)
    shapes = [tuple(up.weight.shape) for up in gan.generator.ups]
    assert shapes == [(256, 128, 5, 5), (128, 64, 5, 5), (64, 1, 5, 5)]
    assert gan.generator.code.weight.shape == (4096, 128)
    assert gan.generator.planes == [(4, 4), (7, 7), (14, 14), (28, 28)]
    convolutions = [m for m in gan.critic.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 128, 256]


def test_a_pixel_of_the_critic_s_score_is_of_its_own_image() -> None:
    """Scores do not depend on who else is in the batch, which the gradient penalty needs."""
    gan, x = tiny(), torch.rand(4, 1, 8, 8, generator=rng(0))
    assert torch.allclose(gan.critic(x)[:2], gan.critic(x[:2]), atol=1e-6)


def test_weights_depend_on_the_seed_alone() -> None:
    before = torch.get_rng_state()
    assert tiny(rng=rng(3)).fingerprint() == tiny(rng=rng(3)).fingerprint()
    assert tiny(rng=rng(3)).fingerprint() != tiny(rng=rng(4)).fingerprint()
    assert torch.equal(torch.get_rng_state(), before)


def test_search_solves_a_linear_generator() -> None:
    """Least squares has a closed form: the oracle is torch.linalg.lstsq."""
    weight = torch.randn(6, 3, generator=rng(0))
    x = torch.randn(5, 6, 1, 1, generator=rng(1))

    def generate(z: Tensor) -> Tensor:
        return (z @ weight.T)[:, :, None, None]

    z = search(generate, x, torch.randn(5, 2, 3, generator=rng(2)), steps=400, lr=0.2)
    expected = torch.linalg.lstsq(weight, x[:, :, 0, 0].T).solution.T
    assert torch.allclose(z, expected, atol=1e-3)


def test_search_keeps_the_best_of_its_starts_and_of_its_way() -> None:
    def square(z: Tensor) -> Tensor:
        return z[:, :, None, None]

    x = torch.zeros(2, 1, 1, 1)
    starts = torch.tensor([[[3.0], [0.5]], [[-0.1], [2.0]]])
    assert search(square, x, starts, steps=0, lr=1.0).flatten().tolist() == [
        0.5,
        pytest.approx(-0.1),
    ]
    # steps far too long only lead away: the start stays the best
    assert search(square, x, starts, steps=1, lr=50.0).flatten().tolist() == [
        0.5,
        pytest.approx(-0.1),
    ]


def test_encode_finds_the_code_of_a_generated_image() -> None:
    gan = tiny()
    wanted = torch.randn(6, 4, generator=rng(0))
    x = gan.generate(wanted)
    z = gan.encode(x, steps=150, restarts=2, rng=rng(1))
    found, start = gan.reconstruction_error(x, z), gan.encode(x, steps=0, rng=rng(1))
    assert float(found.max()) < 1e-6
    assert float(found.max()) < 1e-2 * float(gan.reconstruction_error(x, start).min())


def test_more_restarts_are_never_worse() -> None:
    """The starts of fewer restarts are among those of more."""
    gan, x = tiny(), torch.rand(8, 1, 8, 8, generator=rng(0))
    one, four = (gan.encode(x, steps=5, restarts=r, rng=rng(1)) for r in (1, 4))
    worse = gan.reconstruction_error(x, four) > gan.reconstruction_error(x, one) + 1e-6
    assert not bool(worse.any())


def test_a_row_s_code_does_not_depend_on_the_batch() -> None:
    gan, x = tiny(), torch.rand(7, 1, 8, 8, generator=rng(0))
    whole = gan.encode(x, steps=20, restarts=2, rng=rng(1))
    assert torch.allclose(
        gan.encode(x, steps=20, restarts=2, rng=rng(1), batch_size=3), whole, atol=1e-4
    )
    rows = torch.tensor([5, 2])
    every = child(rng(1), rows=torch.arange(7))
    part = gan.encode(x[rows], steps=20, rng=child(rng(1), rows=rows))
    assert torch.allclose(part, gan.encode(x, steps=20, rng=every)[rows], atol=1e-4)


def test_reconstruction_error_is_the_mean_square() -> None:
    gan, z = tiny(), torch.zeros(2, 4)
    x = torch.rand(2, 1, 8, 8, generator=rng(0))
    expected = nn.functional.mse_loss(gan.generate(z), x, reduction="none").mean((1, 2, 3))
    assert torch.allclose(gan.reconstruction_error(x, z), expected)


def test_nothing_to_encode() -> None:
    assert tiny().encode(torch.zeros(0, 1, 8, 8), rng=rng(0)).shape == (0, 4)


def test_gradient_by_the_code_and_by_nothing_else() -> None:
    gan, z = tiny(), torch.zeros(1, 4, requires_grad=True)
    gan.generate(z).sum().backward()
    assert z.grad is not None
    assert float(z.grad.abs().sum()) > 0
    assert all(p.grad is None and not p.requires_grad for p in gan.module.parameters())


def test_file_round_trip(tmp_path: Path) -> None:
    gan = tiny(batch_norm=True)
    gan.info = {"training": {"steps": 3}}
    gan.save(tmp_path / "g")
    for found in (load_wgan(tmp_path / "g"), WGAN.named(str(tmp_path / "g"))):
        assert (found.settings, found.info) == (gan.settings, gan.info)
        z = torch.randn(3, 4, generator=rng(0))
        assert torch.equal(found.generate(z), gan.generate(z))
        assert found.fingerprint() == gan.fingerprint()
    assert repr(gan) == f"WGAN(1x8x8, latent 4, sha256 {gan.fingerprint()[:12]})"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "model"}, "is no wgan, but a model: train one with mithridate generator"),
        ({"kind": "training"}, "checkpoint of a training run: give its mithridate generator"),
        ({"format": 2}, "has format 2"),
        ({"settings": None}, "its header is wrong"),
        ({"settings": {"image_shape": [1, 8, 8], "latent": 5, "width": 0.1}}, "does not fit"),
        (
            {"settings": {"image_shape": [1, 8, 8], "latent": 10**15}},
            "does not fit|header is wrong",
        ),
        ({"settings": {"image_shape": [1, 8, 8], "latent": 4, "code": "x"}}, "its header is wrong"),
        ({"settings": {"image_shape": [1, 8, "8"], "latent": 4}}, "its header is wrong"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    gan = tiny()
    gan.save(tmp_path / "g")
    tensors, header = read_tensors(tmp_path / "g")
    write_tensors(tmp_path / "g", tensors, header | change)
    with pytest.raises(CheckpointError, match=message):
        load_wgan(tmp_path / "g")


def test_a_generator_is_no_classifier(tmp_path: Path) -> None:
    tiny().save(tmp_path / "g")
    with pytest.raises(CheckpointError, match="generator of images, not a classifier"):
        load(tmp_path / "g")


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    gan = tiny()
    gan.save(tmp_path / "g")
    whole = (tmp_path / "g").read_bytes()
    (tmp_path / "g").write_bytes(whole[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        load_wgan(tmp_path / "g")
    nn.init.constant_(gan.critic.layers[0].bias, torch.nan)
    gan.save(tmp_path / "g")
    with pytest.raises(NothingAssessedError, match="NaN"):
        load_wgan(tmp_path / "g")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"latent": 2.0}, "latent is a whole number, got 2.0"),
        ({"width": 0}, "width must be above 0"),
        ({"batch_norm": 1}, "batch_norm is true or false"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(**settings)


@pytest.mark.parametrize("shape", [(1, 7, 28), (28, 28), (1, 8.0, 8)])
def test_bad_shapes(shape: Any) -> None:
    with pytest.raises(InputError, match=r"at least 8 x 8|image_shape is"):
        WGAN(shape)


def test_bad_images_and_codes() -> None:
    gan = tiny()
    for x in (torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8), torch.zeros(1, 1, 8, 8).byte()):
        with pytest.raises(InputError, match="this wgan takes float N x 1 x 8 x 8"):
            gan.encode(x, rng=rng(0))
    with pytest.raises(InputError, match="NaN"):
        gan.encode(torch.full((1, 1, 8, 8), torch.nan), rng=rng(0))
    with pytest.raises(InputError, match="codes are N x 4"):
        gan.generate(torch.zeros(1, 5))
    for name, value in (("steps", -1), ("restarts", 0), ("lr", 0), ("batch_size", 0)):
        with pytest.raises(InputError, match=f"^{name} "):
            gan.encode(torch.zeros(1, 1, 8, 8), rng=rng(0), **{name: value})
    with pytest.raises(InputError, match="cannot be used"):
        gan.to("nothing")
