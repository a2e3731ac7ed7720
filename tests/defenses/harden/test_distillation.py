"""Distillation: soft labels at a temperature, a saturated softmax, and who is not held up by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.defenses.harden import DefensiveDistillation
from mithridate.defenses.harden.distillation import _AtTemperature
from mithridate.errors import InputError
from mithridate.networks.checkpoint import fingerprint
from mithridate.rng import rng
from mithridate.testing.hardeners import noise_set, stateful_network
from mithridate.training import Batch

T = 20.0


def pixels_as_logits() -> tuple[Classifier, ImageSet]:
    """Right on the first two images, wrong on the third."""
    data = ImageSet.from_float(
        torch.tensor([[1.0, 0.2], [0.0, 1.0], [1.0, 0.0]]).view(3, 1, 1, 2), [0, 1, 1], ["a", "b"]
    )
    return Classifier(nn.Flatten(), classes=2), data


@pytest.mark.parametrize("soft", [False, True])
def test_the_gradient_at_a_temperature(soft: bool) -> None:
    """By the logits z: (softmax(z / T) - label) / (T n)."""
    z = (5 * torch.randn(6, 3, generator=rng(0))).requires_grad_()
    labels = torch.randn(9, 3, generator=rng(1)).softmax(1)
    rows, y = torch.tensor([8, 0, 2, 4, 5, 1]), torch.tensor([0, 1, 2, 0, 1, 2])
    way = _AtTemperature(DefensiveDistillation(temperature=T), labels if soft else None)
    model, batch = Classifier(nn.Flatten(), classes=2), Batch(z, y, rows, 0.0, rng(0))
    (loss,) = way.losses(model, lambda x: x, iter([batch]))
    wanted = labels[rows] if soft else nn.functional.one_hot(y, 3)
    expected = ((z / T).softmax(1) - wanted) / (T * 6)
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], expected.detach())


def test_soft_labels_of_what_the_teacher_has_right_and_wrong() -> None:
    teacher, data = pixels_as_logits()
    at = (data.batch(range(3))[0].flatten(1) / T).softmax(1)
    for misclassified, third in (
        ("keep", at[2]),
        ("drop", at[2]),
        ("hard", torch.tensor([0.0, 1])),
    ):
        way = DefensiveDistillation(temperature=T, misclassified=misclassified)
        soft, right = way.labels(teacher, data)
        torch.testing.assert_close(soft, torch.stack([at[0], at[1], third]))
        assert right.tolist() == [True, True, False]


def test_what_is_dropped_is_not_learned_from() -> None:
    kept, dropped, hard = (
        DefensiveDistillation(temperature=T, misclassified=each).train(
            stateful_network(), noise_set(), epochs=2, rng=rng(1)
        )
        for each in ("keep", "drop", "hard")
    )
    wrong = kept.info["training"]["misclassified"]
    assert 0 < wrong < 50
    assert dropped.info["training"]["n"] == 50 - wrong
    assert hard.info["training"]["n"] == 50
    assert len({fingerprint(model) for model in (kept, dropped, hard)}) == 3


@pytest.fixture(scope="module")
def digits() -> tuple[Classifier, Tensor, Tensor]:
    train, test = mi.load_data("digits")
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    way = DefensiveDistillation(temperature=100)
    student = way.train(net, train, epochs=10, lr=1e-2, rng=rng(0))
    return (student, *test.batch(range(len(test))))


def test_it_hides_from_cross_entropy_alone(digits: tuple[Classifier, Tensor, Tensor]) -> None:
    """The softmax saturates, so FGSM as published finds no gradient; ours needs no other view."""
    student, x, y = digits
    assert (student.labels(x) == y).double().mean() > 0.9
    vanished, _ = student.gradient(x, mi.Untargeted(student.labels(x)))
    assert (vanished.flatten(1) == 0).all(1).double().mean() > 0.5
    result = mi.run_attack(mi.attacks.FGSM(eps=0.2), student, x, mi.Untargeted(y), rng=rng(0))
    assert (result.predicted == y).double().mean() < 0.3


def test_no_view_at_a_temperature_is_much_better(digits: tuple[Classifier, Tensor, Tensor]) -> None:
    """Logits as they are leave about what those divided by any T do: 5 points more at most."""
    student, x, y = digits

    class Cooled(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.module, self.by = student.module, by

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x) / self.by

    def left(view: Classifier) -> int:
        attack = mi.attacks.PGD(eps=0.1, steps=20, step_size=0.01)
        result = mi.run_attack(attack, student, x, mi.Untargeted(y), rng=rng(0), through=view)
        return int((result.predicted == y).sum())

    known = left(student.attacker())
    for by in (10.0, 100.0):
        assert known <= left(Classifier(Cooled(by).eval(), classes=10)) + 0.05 * len(x)


@pytest.mark.parametrize(
    ("given", "channels", "name"),
    [
        ({}, 1.0, "digits-cnn"),
        ({"width": 0.5}, 0.5, "digits-cnn"),
        ({"student": "mnist-cnn", "width": 0.1}, 0.1, "mnist-cnn"),
    ],
)
def test_the_student_may_be_smaller(given: dict[str, Any], channels: float, name: str) -> None:
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=3)
    way = DefensiveDistillation(temperature=T, **given)
    module = way.train(net, noise_set(20), epochs=1, rng=rng(0)).module
    assert (module.network_name, module.settings["width"]) == (name, channels)


def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path: Any) -> None:
    class Stop(Exception):
        """Stands for a kill."""

    def stop(done: int, total: int, text: str) -> None:
        if done > 10:  # of 4 x 2 batches of the teacher, and as many of the student
            raise Stop

    def train(**more: Any) -> Classifier:
        way = DefensiveDistillation(temperature=T)
        return way.train(
            stateful_network(), noise_set(), epochs=2, batch_size=16, rng=rng(1), **more
        )

    with pytest.raises(Stop):
        train(checkpoint=tmp_path / "run", progress=stop)
    assert fingerprint(train(checkpoint=tmp_path / "run")) == fingerprint(train())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DefensiveDistillation(temperature=0), "temperature must be above 0, got 0"),
        (lambda: DefensiveDistillation(width=0), "width must be above 0"),
        (lambda: DefensiveDistillation(student="lenet"), "no network named 'lenet'"),
        (
            lambda: DefensiveDistillation(misclassified="dorp"),
            "misclassified is one of keep, drop, hard, got 'dorp'",
        ),
        (
            lambda: DefensiveDistillation(width=0.5).train(
                stateful_network(), noise_set(), epochs=1, rng=rng(0)
            ),
            "Sequential is no registered network",
        ),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_teacher_that_is_always_wrong_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    way = DefensiveDistillation(temperature=T, misclassified="drop")
    nothing = torch.zeros(50, 3), torch.zeros(50, dtype=torch.bool)
    monkeypatch.setattr(DefensiveDistillation, "labels", lambda *_: nothing)
    with pytest.raises(InputError, match="misclassifies all of noise: train it for more epochs"):
        way.train(stateful_network(), noise_set(), epochs=1, rng=rng(0))
