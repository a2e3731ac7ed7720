"""The gradient penalty by hand, training that helps, and runs that go on where they stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mithridate.data import ImageSet, load_data
from mithridate.errors import CheckpointError, InputError, RunError
from mithridate.networks import gan_training
from mithridate.networks.gan_training import fit_wgan, gradient_penalty
from mithridate.networks.wgan import WGAN
from mithridate.rng import child, rng


@pytest.fixture(scope="module")
def digits() -> tuple[ImageSet, ImageSet]:
    return load_data("digits")


def quick(data: ImageSet, **settings: Any) -> WGAN:
    how = {"steps": 6, "latent": 4, "width": 0.1, "batch_size": 8, "critic_steps": 2}
    return fit_wgan(data, **{**how, "rng": rng(0), **settings})


class Linear(nn.Module):
    """Scores w x + b: its gradient is w everywhere."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight + 3


@pytest.mark.parametrize("length", [0.5, 1.0, 7.0])
def test_penalty_of_a_linear_critic(length: float) -> None:
    """(|w| - 1)^2, and its gradient 2 (|w| - 1) w / |w|."""
    weight = torch.randn(12, generator=rng(0))
    weight = weight / weight.norm() * length
    critic = Linear(weight)
    real, fake = torch.rand(2, 5, 3, 2, 2, generator=rng(1))
    found = gradient_penalty(critic, real, fake, torch.rand(5, 1, 1, 1, generator=rng(2)))
    assert found.item() == pytest.approx((length - 1) ** 2, abs=1e-6)
    (slope,) = torch.autograd.grad(found, critic.weight)
    assert torch.allclose(slope, 2 * (length - 1) * weight / length, atol=1e-5)


def test_penalty_is_taken_between_real_and_fake() -> None:
    """D(x) = |x|^2 / 2 has slope |x|: at mix m of 0 and a unit image, m."""

    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).square().sum(1) / 2

    real, fake = torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1)
    mix = torch.tensor([0.25, 0.75])[:, None, None, None]
    expected = (0.75**2 + 0.25**2) / 2
    assert gradient_penalty(Half(), real, fake, mix).item() == pytest.approx(expected)


def test_training_helps(digits: tuple[ImageSet, ImageSet]) -> None:
    """Test images come nearer than an untrained generator, and than the mean image."""
    train, test = digits
    how: dict[str, Any] = {"latent": 16, "width": 0.25}
    made = fit_wgan(train, steps=120, batch_size=32, lr=1e-3, rng=rng(0), **how)
    blank = WGAN((1, 8, 8), rng=child(rng(0), "init"), **how)
    x, _ = test.batch(range(64))
    after, before = (
        gan.reconstruction_error(x, gan.encode(x, steps=60, restarts=2, rng=rng(1)))
        for gan in (made, blank)
    )
    assert float(after.mean()) < 0.5 * float(before.mean())
    assert float(after.mean()) < 0.8 * float((x - x.mean(0)).square().mean())


def test_the_critic_of_two_points_finds_its_optimum() -> None:
    """Closed form: between images d apart, a slope g earns `d g - 10 (g - 1)^2`.

    The best slope is 1 + d / 20, and the estimate d times that.
    """
    data = ImageSet(torch.zeros(4, 1, 8, 8).byte(), [0] * 4, ["black"])
    recipe = gan_training.GanRecipe(steps=1, seed=0, lr=2e-3, batch_size=16)
    gan = WGAN((1, 8, 8), latent=1, width=0.25, rng=rng(0))
    apart = float(gan.generate(torch.zeros(1, 1)).norm())
    run = gan_training._Run(gan, data, recipe, rng(0), None)
    gan.module.train().requires_grad_(True)
    real, _ = data.batch([0] * 16)
    mix = rng(1)
    for _ in range(80):
        found = run._critic_step(real, torch.zeros(16, 1), mix)
    assert float(found) == pytest.approx(apart * (1 + apart / 20), rel=0.04)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_same_seed_same_bytes(digits: tuple[ImageSet, ImageSet], batch_norm: bool) -> None:
    state = torch.get_rng_state()
    one, two = (quick(digits[0], batch_norm=batch_norm) for _ in range(2))
    assert one.fingerprint() == two.fingerprint()
    assert one.info == two.info
    assert one.fingerprint() != quick(digits[0], batch_norm=batch_norm, rng=rng(1)).fingerprint()
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.requires_grad for p in one.module.parameters())
    assert not any(m.training for m in one.module.modules())


def test_labels_are_not_looked_at(digits: tuple[ImageSet, ImageSet]) -> None:
    data = digits[0].subset(range(40))
    other = data.with_changes(range(40), data.raw(range(40)), [0] * 40)
    assert quick(data).fingerprint() == quick(other).fingerprint()


def test_both_networks_are_trained(digits: tuple[ImageSet, ImageSet]) -> None:
    made, start = quick(digits[0]), WGAN((1, 8, 8), latent=4, width=0.1, rng=child(rng(0), "init"))
    for name, before in start.module.named_parameters():
        assert not torch.equal(before, made.module.get_parameter(name)), name


@pytest.mark.parametrize("after", [0, 2, 3, 5])
def test_a_stopped_run_resumes_to_the_same_bytes(
    digits: tuple[ImageSet, ImageSet], tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gan_training, "ROUND", 2)
    how: dict[str, Any] = {"steps": 5, "batch_norm": True}
    whole = quick(digits[0], **how)

    def stop(done: int, total: int, text: str) -> None:
        if done > after:
            raise KeyboardInterrupt

    path = tmp_path / "run"
    if after < 5:
        with pytest.raises(KeyboardInterrupt):
            quick(digits[0], **how, checkpoint=path, progress=stop)
    told: list[int] = []
    found = quick(
        digits[0], **how, checkpoint=path, progress=lambda done, total, text: told.append(done)
    )
    assert told[0] == after // 2 * 2 + 1 if after < 5 else told == [1, 2, 3, 4, 5]
    assert found.fingerprint() == whole.fingerprint()
    assert found.info == whole.info
    again = quick(digits[0], **how, checkpoint=path)  # nothing is left to do
    assert again.fingerprint() == whole.fingerprint()


def test_anothers_checkpoint_is_refused(digits: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    path = tmp_path / "run"
    quick(digits[0], checkpoint=path)
    with pytest.raises(CheckpointError, match=r"another run \(differs in penalty\)"):
        quick(digits[0], checkpoint=path, penalty=1.0)
    with pytest.raises(CheckpointError, match=r"another run \(differs in data\)"):
        quick(digits[1], checkpoint=path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        quick(digits[0], checkpoint=path)


def test_progress(digits: tuple[ImageSet, ImageSet]) -> None:
    told: list[tuple[int, int, str]] = []
    quick(digits[0], progress=lambda *step: told.append(step))
    assert [step[:2] for step in told] == [(n, 6) for n in range(1, 7)]
    assert told[-1][2].startswith("step 6/6, distance ")


def test_a_run_that_breaks_says_so(digits: tuple[ImageSet, ImageSet]) -> None:
    with pytest.raises(RunError, match=r"became .* by step \d+: lower lr"):
        quick(digits[0], lr=1e30, steps=25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"critic_steps": 0}, "critic_steps must be at least 1, got 0"),
        ({"batch_size": 1.5}, "batch_size is a whole number, got 1.5"),
        ({"penalty": -1}, "penalty must be at least 0"),
        ({"lr": 0}, "lr must be above 0"),
        ({"betas": (0.0, 1)}, "beta2 must be below 1"),
        ({"betas": (-0.1, 0.9)}, "beta1 must be at least 0"),
        ({"batch_norm": True, "batch_size": 1}, "raise batch_size"),
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"device": "nothing"}, "cannot be used"),
    ],
)
def test_bad_settings(
    digits: tuple[ImageSet, ImageSet], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        quick(digits[0], **settings)


def test_images_that_are_too_small_or_no_set() -> None:
    with pytest.raises(InputError, match="at least 8 x 8, got 4 x 4"):
        quick(ImageSet(torch.zeros(2, 1, 4, 4).byte(), [0, 0], ["a"]))
    with pytest.raises(InputError, match="the training set is an ImageSet"):
        quick(torch.zeros(2, 1, 8, 8))  # type: ignore[arg-type]
