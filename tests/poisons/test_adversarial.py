from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError
from mithridate.poisons import AdversarialPoisons
from mithridate.rng import rng
from mithridate.testing.poisons import striped_set, striped_surrogate


def three_classes() -> tuple[Classifier, ImageSet]:
    """A linear model whose logit of class k is the brightness of column k, and grey images."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 3, bias=False))
    with torch.no_grad():
        module[1].weight.copy_(torch.eye(3).repeat(1, 2) * 5)  # type: ignore[operator]
    pixels = torch.full((6, 1, 2, 3), 128, dtype=torch.uint8)
    return Classifier(module, classes=3), ImageSet(pixels, [0, 1, 2] * 2, ["a", "b", "c"], "grey")


@pytest.mark.parametrize("shift", [1, 2, -1, 4])
def test_class_targeted_moves_every_class_to_the_shifted_one(shift: int) -> None:
    """The gradient raises the column of (y + shift) mod 3 and lowers the other two."""
    model, data = three_classes()
    attack = AdversarialPoisons(eps=20 / 255, steps=10, shift=shift)
    poisoned = attack.poison(data, surrogate=model, rng=rng(0))
    for label, image in zip(data.labels, poisoned.images.raw(range(6)), strict=True):
        expected = torch.full((1, 2, 3), 108)
        expected[..., (int(label) + shift) % 3] = 148
        assert torch.equal(image, expected.byte())
    assert torch.equal(poisoned.images.labels, data.labels)
    assert poisoned.target is poisoned.source is poisoned.trigger is poisoned.aim is None


def test_untargeted_lowers_the_true_class() -> None:
    model, data = three_classes()
    attack = AdversarialPoisons(eps=20 / 255, steps=10, shift=None)
    poisoned = attack.poison(data, surrogate=model, rng=rng(0))
    for label, image in zip(data.labels, poisoned.images.raw(range(6)), strict=True):
        assert bool((image[..., int(label)] == 108).all())


def test_stays_within_eps_and_costs_its_passes() -> None:
    data, surrogate = striped_set(), striped_surrogate()
    poisoned = AdversarialPoisons(steps=4).poison(data, surrogate=surrogate, rng=rng(0))
    apart = poisoned.images.raw(range(24)).int() - data.raw(range(24)).int()
    assert int(apart.abs().max()) == 8
    assert surrogate.cost.gradients == surrogate.cost.queries == 24 * 4


@pytest.mark.parametrize("shift", [0, 3, -3])
def test_a_shift_to_the_same_class_is_refused(shift: int) -> None:
    with pytest.raises(InputError, match="to itself"):
        AdversarialPoisons(shift=shift).poison(
            striped_set(), surrogate=striped_surrogate(), rng=rng(0)
        )


def test_from_the_command_line() -> None:
    attack = component.create("poisons", "adversarial-poisons", {"eps": "4/255", "shift": "none"})
    assert (attack.eps, attack.shift, attack.fraction) == (4 / 255, None, 1.0)
    assert attack.attack().step_size == pytest.approx(2.5 * 4 / 255 / 250)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eps": 0.0}, "perturbs nothing"),
        ({"shift": 0.5}, "whole number"),
        ({"steps": -1}, "at least 1"),
    ],
)
def test_refuses_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AdversarialPoisons(**given)
