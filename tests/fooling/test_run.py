"""The runner: what it certifies, counts and keeps; and every method through it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate import component
from mithridate.errors import InputError, NothingAssessedError, RunError
from mithridate.fooling import (
    CPPN,
    Direct,
    Elites,
    FoolingMethod,
    GradientAscent,
    run_fooling,
)
from mithridate.testing.models import linear_model

QUICK = {
    "direct": {"population": 60, "generations": 400, "confidence": 0.99},
    "cppn": {"population": 60, "generations": 100, "nodes": 6, "confidence": 0.99},
    "gradient": {"steps": 200, "confidence": 0.99},
}
NAMES = sorted(component.TABLES["fooling"])


@pytest.fixture(params=NAMES)
def name(request) -> str:
    if request.param != "gradient":
        pytest.importorskip("ribs")
    return str(request.param)


def test_every_method_is_quick_here() -> None:
    assert sorted(QUICK) == NAMES


def test_every_class_of_the_digits_is_fooled(name, digits_model) -> None:
    before = digits_model.cost.queries
    result = run_fooling(
        component.create("fooling", name, QUICK[name]), digits_model, rng=mi.rng(0)
    )
    asked = digits_model.cost.queries - before
    scores = digits_model.scores(result.images)
    assert torch.equal(result.confidence, scores.diagonal())
    assert result.confidence.min() > 0.989
    assert result.predicted.tolist() == list(range(10))
    assert result.images.shape == (10, 1, 8, 8)
    assert (result.status, len(result)) == ("done", 10)
    # The probe, the search, the images found, and our own look at them.
    assert result.queries == asked - 10 - 1 == result.evaluations[-1]
    assert result.gradients == (result.queries if name == "gradient" else 0)
    assert result.history.shape == (result.rounds, 10) == (len(result.evaluations), 10)
    assert (result.history.diff(dim=0) >= 0).all()
    assert torch.allclose(result.history[-1], result.confidence, atol=1e-4)


def test_the_same_seed_gives_the_same_bytes(name) -> None:
    method = component.create("fooling", name, QUICK[name] | {"confidence": None} | SHORT[name])
    runs = [run_fooling(method, linear_model(classes=4), rng=mi.rng(s)) for s in (3, 3, 4)]
    assert torch.equal(runs[0].images, runs[1].images)
    assert torch.equal(runs[0].history, runs[1].history)
    assert not torch.equal(runs[0].images, runs[2].images)


SHORT = {"direct": {"generations": 5}, "cppn": {"generations": 5}, "gradient": {"steps": 5}}


def test_the_same_seed_gives_the_same_bytes_in_another_process() -> None:
    pytest.importorskip("ribs")
    code = (
        "import hashlib, mithridate as mi\n"
        "from mithridate.testing.models import linear_model\n"
        "m = mi.fooling.CPPN(population=20, generations=4, confidence=None)\n"
        "r = mi.fooling.run_fooling(m, linear_model(classes=4), rng=mi.rng(3))\n"
        "print(hashlib.sha256(r.images.numpy().tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    method = mi.fooling.CPPN(population=20, generations=4, confidence=None)
    here = run_fooling(method, linear_model(classes=4), rng=mi.rng(3)).images
    assert done.stdout.strip() == hashlib.sha256(here.numpy().tobytes()).hexdigest()


def test_without_a_confidence_every_round_is_made(name) -> None:
    method = component.create("fooling", name, QUICK[name] | {"confidence": None} | SHORT[name])
    assert run_fooling(method, linear_model(), rng=mi.rng(0)).rounds == method.rounds == 6


def test_no_generation_leaves_the_first_population(name) -> None:
    none = {"steps": 0} if name == "gradient" else {"generations": 0}
    result = run_fooling(
        component.create("fooling", name, QUICK[name] | none), linear_model(), rng=mi.rng(0)
    )
    assert result.rounds == 1


def test_colour_and_many_classes(name) -> None:
    model = linear_model((3, 5, 4), classes=40)
    method = component.create("fooling", name, QUICK[name] | SHORT[name])
    result = run_fooling(method, model, rng=mi.rng(0))
    assert result.images.shape == (40, 3, 5, 4)


def test_ctrl_c_keeps_the_elites(name) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    model = linear_model(classes=4)
    method = component.create("fooling", name, QUICK[name] | {"confidence": None})
    result = run_fooling(method, model, rng=mi.rng(0), progress=stop)
    assert (result.status, result.rounds) == ("interrupted", 3)
    assert torch.equal(result.confidence, model.scores(result.images).diagonal())
    assert torch.allclose(result.confidence, result.history[-1], atol=1e-6)
    assert result.evaluations[-1] == result.queries


@dataclass(frozen=True, kw_only=True)
class Claims(FoolingMethod):
    """Hands out given images and is certain of them; a Ctrl-C where there are none."""

    images: torch.Tensor | None = None
    rounds: int = 1

    def search(self, model, shape, *, rng):
        if self.images is None:
            raise KeyboardInterrupt
        yield Elites(self.images, torch.ones(len(self.images)))


def test_no_method_certifies_itself() -> None:
    result = run_fooling(
        Claims(images=torch.full((2, 1, 4, 4), 0.5)), linear_model(), rng=mi.rng(0)
    )
    assert result.confidence.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(3, 1, 4, 4), r"shape \(3, 1, 4, 4\), not \(2, 1, 4, 4\): a bug"),
        (torch.full((2, 1, 4, 4), 1.5), r"left \[0, 1\]"),
        (torch.full((2, 1, 4, 4), float("nan")), r"left \[0, 1\]"),
    ],
)
def test_broken_contracts_are_named(images, said) -> None:
    with pytest.raises(RunError, match=said):
        run_fooling(Claims(images=images), linear_model(), rng=mi.rng(0))


def test_ctrl_c_before_the_first_round_is_one() -> None:
    with pytest.raises(KeyboardInterrupt):
        run_fooling(Claims(), linear_model(), rng=mi.rng(0))


def test_a_model_of_nan_is_not_assessed(name) -> None:
    model = linear_model()
    with torch.no_grad():
        next(model.module.parameters()).fill_(float("nan"))
    with pytest.raises(NothingAssessedError, match="NaN or infinite"):
        run_fooling(component.create("fooling", name), model, rng=mi.rng(0))


def test_shapes_are_checked() -> None:
    nameless = mi.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), classes=3)
    method = GradientAscent(steps=1)
    with pytest.raises(InputError, match=r"give shape=\(C, H, W\)"):
        run_fooling(method, nameless, rng=mi.rng(0))
    assert len(run_fooling(method, nameless, (1, 4, 4), rng=mi.rng(0))) == 3
    with pytest.raises(InputError, match="cannot take images of shape"):
        run_fooling(method, nameless, (1, 5, 4), rng=mi.rng(0))
    with pytest.raises(InputError, match="each at least 1"):
        run_fooling(method, nameless, (1, 0, 4), rng=mi.rng(0))
    with pytest.raises(InputError, match="was built for"):
        run_fooling(method, linear_model(), (1, 5, 4), rng=mi.rng(0))


def test_the_model_is_returned_as_it_was(name, digits_model) -> None:
    digits_model.module.train()
    weights = {k: v.clone() for k, v in digits_model.module.state_dict().items()}
    method = component.create("fooling", name, QUICK[name] | SHORT[name])
    run_fooling(method, digits_model, rng=mi.rng(0))
    assert digits_model.module.training
    assert all(p.requires_grad for p in digits_model.module.parameters())
    after = digits_model.module.state_dict()
    assert all(torch.equal(weights[k], after[k]) for k in weights)


@pytest.mark.parametrize(
    ("method", "setting", "message"),
    [
        (GradientAscent, {"steps": -1}, "steps must be at least 0"),
        (GradientAscent, {"step_size": 0.0}, "step_size must be above 0"),
        (GradientAscent, {"decay": 1.5}, "decay must be at most 1"),
        (GradientAscent, {"mean": -0.1}, "mean must be at least 0"),
        (GradientAscent, {"start": "cat"}, "start is one of noise, mean, got 'cat'"),
        (CPPN, {"nodes": -1}, "nodes must be at least 0"),
        (CPPN, {"connect": 1.5}, "connect must be at most 1"),
        (CPPN, {"rate": -0.1}, "rate must be at least 0"),
        (CPPN, {"population": 0}, "population must be at least 1"),
        (CPPN, {"confidence": 1.1}, "confidence must be at most 1"),
        (Direct, {"population": 0}, "population must be at least 1"),
        (Direct, {"generations": -1}, "generations must be at least 0"),
        (Direct, {"rate": 0.0}, "rate must be above 0"),
        (Direct, {"rate": 1.5}, "rate must be at most 1"),
        (Direct, {"halve_every": 0}, "halve_every must be at least 1"),
        (Direct, {"eta": -1.0}, "eta must be at least 0"),
        (Direct, {"confidence": 0.0}, "confidence must be above 0"),
        (Direct, {"confidence": 99.0}, "confidence must be at most 1"),
    ],
)
def test_bad_settings_are_named(method, setting, message) -> None:
    with pytest.raises(InputError, match=message):
        method(**setting)


@pytest.fixture(scope="module")
def mnist_model() -> mi.Classifier:
    if "MITHRIDATE_DATA" not in os.environ:
        pytest.skip("MITHRIDATE_DATA is not set")
    train, _ = mi.load_data("mnist")
    network = mi.networks.create("borji-cnn", image_shape=(1, 28, 28), classes=10)
    return mi.fit(network, train, epochs=1, rng=mi.rng(0))


@pytest.mark.data
@pytest.mark.slow
def test_every_class_of_mnist_is_fooled(name, mnist_model) -> None:
    result = run_fooling(component.create("fooling", name), mnist_model, rng=mi.rng(0))
    assert result.confidence.min() >= 0.99
