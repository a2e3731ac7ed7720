"""Each form of adversarial training against a linear model worked by hand; the canary; averages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.defenses.harden import (
    NFGSM,
    AdversarialTraining,
    FastAdversarialTraining,
    FreeAdversarialTraining,
    Trades,
    adversarial,
)
from mithridate.errors import InputError
from mithridate.networks.base import initialise
from mithridate.networks.checkpoint import fingerprint
from mithridate.norms import LINF
from mithridate.rng import child, rng
from mithridate.testing.hardeners import noise_set, stateful_network
from mithridate.training import Batch, Hardening

EPS = 0.1
STILL: dict[str, Any] = {"epochs": 1, "lr": 1e-12}
"""No weight moves."""


def linear(seed: int = 1) -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    initialise(net, child(rng(seed), "init"))
    return net


def toward_loss(net: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """The sign of the loss's gradient, which is the same everywhere."""
    weight = net[1].weight.detach()
    return (weight[1 - y] - weight[y]).view_as(x).sign()


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    return noise_set(40, classes=2).batch(range(40))


# One step


def test_n_fgsm_is_noise_of_two_eps_and_a_step_of_one(images: tuple[Tensor, Tensor]) -> None:
    net, (x, y) = linear(), images
    way = NFGSM(eps=EPS, ramp=0)
    got = way.harden(Classifier(net, classes=2), x, y, part=0.0, rng=rng(3))
    noise = LINF.sample(x, 2 * EPS, rng(3))
    step = EPS * toward_loss(net, x, y)
    torch.testing.assert_close(got, ((x + noise).clamp(0, 1) + step).clamp(0, 1))
    assert 2.5 * EPS < (got - x).abs().max() <= 3 * EPS + 1e-6  # far out of the ball


def test_fast_takes_a_longer_step_and_comes_back(images: tuple[Tensor, Tensor]) -> None:
    net, (x, y) = linear(), images
    way = FastAdversarialTraining(eps=EPS, ramp=0)
    got = way.harden(Classifier(net, classes=2), x, y, part=0.0, rng=rng(3))
    noise = (x + LINF.sample(x, EPS, rng(3))).clamp(0, 1) - x
    moved = (noise + 1.25 * EPS * toward_loss(net, x, y)).clamp(-EPS, EPS)
    torch.testing.assert_close(got, (x + moved).clamp(0, 1))


def test_the_clean_loss_is_mixed_in(images: tuple[Tensor, Tensor]) -> None:
    net, (x, y) = linear(), images
    way = AdversarialTraining(eps=EPS, steps=3, ramp=0, clean=0.25, canary=0)
    loss = way.train(net, noise_set(40, classes=2), rng=rng(1), **STILL).info["training"]["loss"]
    worst = (x + EPS * toward_loss(net, x, y)).clamp(0, 1)
    both = 0.75 * cross_entropy(net(worst), y) + 0.25 * cross_entropy(net(x), y)
    assert loss == pytest.approx(both.item(), rel=1e-5)


# TRADES


def test_trades_goes_as_far_as_a_linear_margin_can() -> None:
    """KL(p || q) of two classes grows with the change of the margin, whichever way."""
    net = linear()
    x = 0.3 + 0.4 * torch.rand(20, 1, 8, 8, generator=rng(0))
    moved = Trades(eps=EPS, ramp=0).attacked(Classifier(net, classes=2), x, part=0.0, rng=rng(2))
    weight = net[1].weight.detach()
    before, after = ((z[:, 0] - z[:, 1]).detach() for z in (net(x), net(moved)))
    reach = EPS * (weight[0] - weight[1]).abs().sum()
    torch.testing.assert_close((after - before).abs(), reach.expand(20), rtol=1e-4, atol=0)


def test_the_loss_of_trades_is_the_published_one(images: tuple[Tensor, Tensor]) -> None:
    net, (x, y) = linear(), images
    way, model = Trades(eps=EPS, ramp=0, beta=6.0), Classifier(net, classes=2)
    batch = Batch(x, y, torch.arange(40), 0.0, rng(2))
    (loss,) = way.losses(model, net, iter([batch]))
    moved = way.attacked(model, x, part=0.0, rng=rng(2))
    apart = kl_div(net(moved).log_softmax(1), net(x).softmax(1), reduction="batchmean")
    torch.testing.assert_close(loss, cross_entropy(net(x), y) + 6 * apart)
    loss.backward()
    assert net[1].weight.grad is not None


def test_usual_beta_is_that_of_the_paper() -> None:
    assert Trades.usual((1, 28, 28)) == {"eps": 0.3, "beta": 1.0}
    assert Trades.usual((3, 32, 32)) == {"eps": 8 / 255, "beta": 6.0}


# Free


def test_free_steps_after_each_pass_and_goes_on_from_there(images: tuple[Tensor, Tensor]) -> None:
    """Two batches of 20, two passes each: 0, eps; then from that eps, a step further, clipped."""
    net, (x, y) = linear(), images
    way = FreeAdversarialTraining(eps=EPS, replays=2, ramp=0)
    halves = [Batch(x[i], y[i], torch.arange(20), 0.0, rng(0)) for i in (slice(20), slice(20, 40))]
    seen: list[Tensor] = []

    def logits(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return net(x)

    for loss in way.losses(Classifier(net, classes=2), logits, iter(halves)):
        loss.backward()
    delta, expected = torch.zeros_like(x[:20]), []
    for batch in halves:
        for _ in range(2):
            expected.append((batch.x + delta).clamp(0, 1))
            delta = (delta + EPS * toward_loss(net, batch.x, batch.y)).clamp(-EPS, EPS)
    torch.testing.assert_close(torch.stack(seen), torch.stack(expected))


def test_an_epoch_of_free_makes_that_many_steps() -> None:
    seen: list[int] = []
    way = FreeAdversarialTraining(eps=EPS, replays=3, canary=0)
    model = way.train(
        stateful_network(),
        noise_set(40),
        rng=rng(0),
        epochs=2,
        batch_size=10,
        progress=lambda done, total, text: seen.append(done),
    )
    assert seen == list(range(1, 25))
    assert model.module[1].num_batches_tracked == 24


# The average


def test_the_average_of_weights_by_hand() -> None:
    """Three full batches of SGD: decay is (1 + n) / (10 + n), and 0.15 at most."""
    data, net = noise_set(40, classes=2), linear()
    way = AdversarialTraining(eps=EPS, steps=3, ramp=0, average=0.15, canary=0)
    model = way.train(
        net, data, rng=rng(1), epochs=3, batch_size=40, optimizer="sgd", momentum=0.0, lr=0.5
    )
    (x, y), mean = data.batch(range(40)), net[1].weight.detach().clone()
    for decay in (0.1, 0.15, 0.15):
        worst = (x + EPS * toward_loss(net, x, y)).clamp(0, 1)
        grads = torch.autograd.grad(cross_entropy(net(worst), y), list(net.parameters()))
        with torch.no_grad():
            for weight, grad in zip(net.parameters(), grads, strict=True):
                weight -= 0.5 * grad
        mean = decay * mean + (1 - decay) * net[1].weight.detach()
    torch.testing.assert_close(model.module[1].weight.detach(), mean, atol=1e-6, rtol=1e-5)


def test_counts_are_not_averaged() -> None:
    way = AdversarialTraining(eps=EPS, steps=1, average=0.9, canary=0)
    model = way.train(stateful_network(), noise_set(40), epochs=2, rng=rng(0), batch_size=10)
    assert model.module[1].num_batches_tracked == 8


# The canary


class Scripted(Hardening):
    """Scores as given, epoch by epoch; an average, so that all that a checkpoint keeps is there."""

    average = 0.5

    def __init__(self, scores: Sequence[float]) -> None:
        self.left = list(scores)

    def score(self, model: Classifier, canary: ImageSet, rng: torch.Generator) -> float:
        return self.left.pop(0)


def scripted(*scores: float, **more: Any) -> Classifier:
    given = {"epochs": len(scores), "batch_size": 16, "rng": rng(1), **more}
    canary = noise_set(9)
    return mi.fit(
        stateful_network(), noise_set(), hardening=Scripted(scores), canary=canary, **given
    )


def test_the_best_epoch_is_kept_and_of_equals_the_last(tmp_path: Path) -> None:
    model = scripted(0.2, 0.9, 0.9, 0.1)
    assert fingerprint(model) == fingerprint(scripted(0.1, 0.2, 0.3))
    training = model.info["training"]
    assert (training["kept_epoch"], training["scores"]) == (3, [0.2, 0.9, 0.9, 0.1])
    assert training["held_out"] == 9

    class Stop(Exception):
        """Stands for a kill."""

    def stop(done: int, total: int, text: str) -> None:
        if done > 13:  # in epoch 4
            raise Stop

    with pytest.raises(Stop):
        scripted(0.2, 0.9, 0.9, 0.1, checkpoint=tmp_path / "run", progress=stop)
    resumed = mi.fit(
        stateful_network(),
        noise_set(),
        hardening=Scripted([0.1]),
        canary=noise_set(9),
        epochs=4,
        batch_size=16,
        rng=rng(1),
        checkpoint=tmp_path / "run",
    )
    assert (fingerprint(resumed), resumed.info) == (fingerprint(model), model.info)


@pytest.mark.parametrize(
    ("scores", "ids"),
    [
        ([0.2, 0.5, 0.4], []),
        ([0.2, 0.5, 0.01], ["catastrophic-overfitting"]),
        ([0.1, 0.02, 0.5], []),  # what falls is a constant answer
        ([0.1, 0.11, 0.1], ["not-hardened"]),
    ],
)
def test_what_the_canary_makes_one_doubt(scores: list[float], ids: list[str]) -> None:
    doubts = AdversarialTraining(eps=EPS).doubts(scores, 10)
    assert [doubt.id for doubt in doubts] == ids
    if ids == ["catastrophic-overfitting"]:
        assert "fell to 1% in epoch 3; the weights of epoch 2 were kept, which had 50%" in str(
            doubts[0].text
        )


def test_the_canary_is_training_images_that_are_not_learned_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, given = noise_set(100), {}
    monkeypatch.setattr(
        adversarial, "fit", lambda net, learned, **more: given.update(more, d=learned)
    )
    AdversarialTraining(eps=EPS, canary=7).train(linear(), data, rng=rng(0))
    learned, held = given["d"].raw(range(93)), given["canary"].raw(range(7))
    parts = [image.numpy().tobytes() for image in torch.cat([learned, held])]
    assert sorted(parts) == sorted(image.numpy().tobytes() for image in data.raw(range(100)))
    assert AdversarialTraining(eps=EPS).held_out(60_000) == 512
    assert AdversarialTraining(eps=EPS).held_out(50) == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"average": 1}, "average 1 keeps the first weights for ever"),
        ({"average": -0.1}, "average must be at least 0"),
        ({"canary": 0.5}, "canary is a whole number"),
        ({"clean": 2}, "clean must be at most 1"),
    ],
)
def test_refusals(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NFGSM(eps=EPS, **given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NFGSM(eps=EPS, noise=-1), "noise must be at least 0"),
        (lambda: FastAdversarialTraining(eps=EPS, step=0), "step must be above 0"),
        (lambda: Trades(eps=EPS, beta=0), "beta must be above 0"),
        (lambda: Trades(eps=EPS, step_size=0), "step_size must be above 0"),
        (lambda: FreeAdversarialTraining(eps=EPS, replays=1.5), "replays is a whole number"),
    ],
)
def test_refusals_of_its_own(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
