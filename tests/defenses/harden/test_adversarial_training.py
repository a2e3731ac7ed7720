"""Adversarial training: it hardens, its images are the worst there are, and it leaves no trace."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mithridate as mi
from mithridate import component
from mithridate.classifier import Classifier
from mithridate.cost import Sizes
from mithridate.data import ImageSet
from mithridate.defenses.harden import AdversarialTraining
from mithridate.errors import CheckpointError, InputError
from mithridate.networks.base import initialise
from mithridate.networks.checkpoint import fingerprint
from mithridate.norms import L2, LINF, Norm
from mithridate.rng import child, rng
from mithridate.testing.checks import untouched
from mithridate.testing.hardeners import noise_set, stateful_network


@cache
def subject() -> Classifier:
    """After an epoch, so that running statistics are not those of the beginning."""
    return mi.fit(stateful_network(), noise_set(), epochs=1, rng=rng(5))


def linear(seed: int = 1) -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    initialise(net, child(rng(seed), "init"))
    return net


def worst(net: nn.Sequential, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Where a linear model of two classes loses most within eps in Linf, in closed form."""
    weight = net[1].weight.detach()
    towards = (weight[y] - weight[1 - y]).view_as(x)
    return (x - eps * towards.sign()).clamp(0, 1)


# It hardens


@pytest.fixture(scope="module")
def digits() -> tuple[ImageSet, ImageSet]:
    train, test = mi.load_data("digits")
    return train, test


@pytest.mark.parametrize("seed", [0, 1])
def test_a_hardened_model_keeps_more_accuracy_under_a_stronger_attack(
    digits: tuple[ImageSet, ImageSet], seed: int
) -> None:
    train, test = digits
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10, width=0.5)
    budget: dict[str, Any] = {"epochs": 8, "lr": 3e-3, "rng": rng(seed)}
    plain = mi.fit(net, train, **budget)
    hardened = AdversarialTraining(eps=0.15, steps=5).train(net, train, **budget)
    x, y = test.batch(range(len(test)))
    attack = mi.attacks.PGD(eps=0.15, steps=20, step_size=0.02, restarts=2)
    kept = {}
    for name, model in (("plain", plain), ("hardened", hardened)):
        assert (model.labels(x) == y).double().mean() >= 0.8
        result = mi.run_attack(attack, model, x, mi.Untargeted(y), rng=rng(99))
        kept[name] = 1 - result.success.double().mean().item()
    assert kept["hardened"] >= kept["plain"] + 0.2, kept


# What is attacked, and how


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_images_of_a_linear_model_are_the_worst_there_are(steps: int) -> None:
    net, (x, y) = linear(), noise_set(40, classes=2).batch(range(40))
    way = AdversarialTraining(eps=0.1, steps=steps, ramp=0)
    attacked = way.harden(Classifier(net, classes=2), x, y, part=0.0, rng=rng(3))
    torch.testing.assert_close(attacked, worst(net, x, y, 0.1), atol=1e-6, rtol=0)


def test_it_learns_from_the_attacked_images() -> None:
    """The loss in the record is that of the worst images: at such an lr no weight moves."""
    data, net = noise_set(40, classes=2), linear(seed=1)
    way = AdversarialTraining(eps=0.1, steps=3, ramp=0, canary=0)
    model = way.train(net, data, epochs=1, rng=rng(1), lr=1e-12, batch_size=15)
    x, y = data.batch(range(40))
    clean = cross_entropy(net(x), y).item()
    expected = cross_entropy(net(worst(net, x, y, 0.1)), y).item()
    assert model.info["training"]["loss"] == pytest.approx(expected, rel=1e-5)
    assert expected > clean + 0.1


@settings(max_examples=25)
@given(
    n=st.integers(1, 9),
    ratio=st.floats(0.01, 1),
    part=st.floats(0, 1),
    norm_eps=st.sampled_from([(LINF, 0.2), (LINF, 1.0), (L2, 1.5), (L2, 30.0)]),
)
def test_all_within_eps_and_the_rest_byte_equal(
    n: int, ratio: float, part: float, norm_eps: tuple[Norm, float]
) -> None:
    norm, eps = norm_eps
    x, y = noise_set().batch(range(n))
    before = x.clone()
    way = AdversarialTraining(eps=eps, norm=norm, steps=2, ratio=ratio)
    attacked = way.harden(subject(), x, y, part=part, rng=rng(0))
    assert torch.equal(x, before)
    assert (attacked.shape, attacked.dtype) == (x.shape, x.dtype)
    assert 0 <= attacked.min() <= attacked.max() <= 1
    assert (norm.distance(attacked, x) <= way.attack(part).eps * (1 + 1e-5) + 1e-6).all()
    count = max(1, round(ratio * n))
    assert torch.equal(attacked[count:], x[count:])


@pytest.mark.parametrize(("ratio", "count"), [(0.5, 10), (1.0, 20), (0.26, 5), (0.001, 1)])
def test_ratio_is_the_share_that_is_attacked(ratio: float, count: int) -> None:
    x, y = noise_set().batch(range(20))
    attacked = AdversarialTraining(eps=0.1, steps=2, ramp=0, ratio=ratio).harden(
        subject(), x, y, part=0.0, rng=rng(0)
    )
    changed = (attacked != x).flatten(1).any(1)
    assert changed.tolist() == [True] * count + [False] * (20 - count)


def test_eps_and_the_step_grow_in_a_line() -> None:
    way = AdversarialTraining(eps=0.3, steps=5, ramp=0.5)
    sizes = {0: 0.0003, 0.125: 0.075, 0.25: 0.15, 0.5: 0.3, 1: 0.3}
    for part, eps in sizes.items():
        attack = way.attack(part)
        assert attack.eps == pytest.approx(eps)
        assert attack.step_size == pytest.approx(eps / 2)  # 2.5 eps / 5
        assert (attack.steps, attack.restarts, attack.stop_at_goal) == (5, 1, False)
    own = AdversarialTraining(eps=0.3, steps=5, ramp=0.5, step_size=0.1)
    assert own.attack(0.25).step_size == pytest.approx(0.05)
    assert own.attack(1).step_size == pytest.approx(0.1)
    assert AdversarialTraining(eps=0.3, ramp=0).attack(0).eps == 0.3
    assert AdversarialTraining(eps=0.3, ramp=1).attack(0.9).eps == pytest.approx(0.27)


def test_the_ramp_follows_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[float] = []
    real = AdversarialTraining.attack

    def noted(way: AdversarialTraining, part: float) -> Any:
        parts.append(part)
        return real(way, part)

    way = AdversarialTraining(eps=0.1, steps=1, canary=0)
    monkeypatch.setattr(AdversarialTraining, "attack", noted)
    way.train(stateful_network(), noise_set(40), epochs=2, rng=rng(0), batch_size=10)
    assert parts == [step / 8 for step in range(8)]


# What it leaves alone


def test_the_attack_leaves_no_trace_in_the_model() -> None:
    model = copy.deepcopy(subject())
    model.module.train()
    model.module[3].eval()  # a part that the user froze
    x, y = noise_set().batch(range(20))
    way = AdversarialTraining(eps=0.2, steps=3)
    with untouched(model=model, images=x):
        one, two = (way.harden(model, x, y, part=1.0, rng=rng(0)) for _ in range(2))
    assert torch.equal(one, two)  # no dropout took part
    assert not one.requires_grad


def test_batch_normalisation_counts_only_the_passes_of_the_training() -> None:
    way = AdversarialTraining(eps=0.2, steps=3)
    model = way.train(stateful_network(), noise_set(40), epochs=2, rng=rng(0), batch_size=10)
    assert model.module[1].num_batches_tracked == 8
    assert not model.module.training


def test_bounds_of_the_network_are_kept() -> None:
    """The same network behind another input range: the same images."""
    net, (x, y) = linear(), noise_set(20, classes=2).batch(range(20))
    shifted = copy.deepcopy(net)
    with torch.no_grad():  # w x + b = (w / 2) (2 x - 1) + b + sum(w) / 2
        shifted[1].bias += shifted[1].weight.sum(1) / 2
        shifted[1].weight /= 2
    way = AdversarialTraining(eps=0.1, steps=3, ramp=0)
    attacked = [
        way.harden(model, x, y, part=1.0, rng=rng(0))
        for model in (Classifier(net, classes=2), Classifier(shifted, classes=2, bounds=(-1, 1)))
    ]
    torch.testing.assert_close(attacked[0], attacked[1], atol=1e-6, rtol=0)


# Settings


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_one_image_is_enough(ratio: float) -> None:
    way = AdversarialTraining(eps=0.1, steps=2, ramp=0, ratio=ratio)
    model = way.train(linear(), noise_set(1, classes=2), epochs=1, rng=rng(0))
    assert model.info["training"]["n"] == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eps": 0}, "eps 0 attacks nothing: raise it, or train without hardening"),
        ({"eps": -0.1}, "eps must be at least 0, got -0.1"),
        ({"eps": float("nan")}, "eps must be at least 0, got nan"),
        ({"eps": 8}, "for 8 of 255 grey levels give 8/255"),
        ({"ratio": 0}, "ratio must be above 0, got 0"),
        ({"ratio": 1.1}, "ratio must be at most 1, got 1.1"),
        ({"ramp": 2}, "ramp must be at most 1, got 2"),
        ({"ramp": -1}, "ramp must be at least 0, got -1"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"step_size": 0}, "step_size must be above 0, got 0"),
    ],
)
def test_refusals(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        AdversarialTraining(**{"eps": 0.1, **given})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_its_name_gives_it() -> None:
    named = component.create("hardeners", "adversarial-training", {"eps": "8/255", "norm": "l2"})
    assert named == mi.hardeners.AdversarialTraining(eps=8 / 255, norm=L2)
    assert named.record()["name"] == "adversarial-training"


def test_usual_eps_is_that_of_the_paper() -> None:
    assert AdversarialTraining.usual((1, 28, 28)) == {"eps": 0.3}
    assert AdversarialTraining.usual((3, 32, 32)) == {"eps": 8 / 255}


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_its_cost_is_what_an_epoch_takes(ratio: float) -> None:
    way = AdversarialTraining(eps=0.1, steps=3, ratio=ratio, canary=0)
    model = way.train(stateful_network(), noise_set(40), epochs=2, rng=rng(0), batch_size=10)
    assert model.cost.gradients == 2 * way.cost(Sizes(train=40)).gradients


# The same bytes


WAY = AdversarialTraining(eps=0.1, steps=2, average=0.9, canary=2)
HOW: dict[str, Any] = {"epochs": 3, "batch_size": 16, "schedule": "onecycle"}


def trained(seed: int = 1, **more: Any) -> Classifier:
    return WAY.train(stateful_network(), noise_set(52), rng=rng(seed), **HOW, **more)


@pytest.mark.parametrize("after", [4, 6])  # 4 batches an epoch
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path: Path, after: int) -> None:
    class Stop(Exception):
        """Stands for a kill."""

    def stop(done: int, total: int, text: str) -> None:
        if done > after:
            raise Stop

    path = tmp_path / "run"
    with pytest.raises(Stop):
        trained(checkpoint=path, progress=stop)
    seen: list[int] = []
    resumed = trained(checkpoint=path, progress=lambda done, total, text: seen.append(done))
    assert seen == list(range(5, 13))
    whole = trained()
    assert fingerprint(resumed) == fingerprint(whole)
    assert resumed.info == whole.info


SCRIPT = """
import torch
from test_adversarial_training import fingerprint, trained
torch.rand(7)  # another global state
print(fingerprint(trained()))
"""


def test_another_process_gives_the_same_bytes() -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == fingerprint(trained())


def test_a_checkpoint_of_another_way_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def plain() -> Classifier:
        return mi.fit(stateful_network(), noise_set(), rng=rng(1), checkpoint=path, **HOW)

    plain()
    with pytest.raises(CheckpointError, match=r"differs in hardening, data, canary\)"):
        trained(checkpoint=path)
    path.unlink()
    trained(checkpoint=path)
    with pytest.raises(CheckpointError, match=r"differs in data, canary, hardening\)"):
        plain()
    other = AdversarialTraining(eps=0.2, steps=2, canary=2)
    with pytest.raises(CheckpointError, match=r"differs in hardening\)"):
        other.train(stateful_network(), noise_set(52), rng=rng(1), checkpoint=path, **HOW)
