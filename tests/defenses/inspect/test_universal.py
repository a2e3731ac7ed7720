"""The smallest common change: its size on linear models, and a planted trigger."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.defenses.inspect import UniversalPerturbation
from mithridate.defenses.inspect.base import Added
from mithridate.defenses.inspect.universal import _finite
from mithridate.errors import InputError

SHAPE = (1, 6, 6)


def linear(seed: int = 0, classes: int = 2) -> Classifier:
    """Logits w x, small enough that no change comes near the walls."""
    layer = nn.Linear(36, classes)
    layer.weight.data = torch.randn(classes, 36, generator=mi.rng(seed))
    layer.bias.data = -0.5 * layer.weight.data.sum(1)
    return Classifier(nn.Sequential(nn.Flatten(), layer), classes=classes, image_shape=SHAPE)


def labelled(model: Classifier, count: int = 200) -> mi.ImageSet:
    """Grey images, by the model's own labels."""
    x = 0.5 + 0.05 * torch.randn(count, *SHAPE, generator=mi.rng(9))
    labels = model.labels(x)
    return mi.ImageSet.from_float(x, labels, [str(k) for k in range(model.classes)])


def test_sizes_are_those_of_a_linear_model():
    """margin = (w_t - w_s) x + b: an image needs |margin| / |w_t - w_s|, all the k-th least."""
    model = linear()
    data = labelled(model)
    plan = UniversalPerturbation(steps=40, images=10)
    look = plan.look(model, data, rng=mi.rng(1))
    halves = mi.inspectors.Halves.split(data, mi.rng(1))
    weight = model.module[1].weight.detach()
    for row, (source, target) in enumerate(look["pair"].tolist()):
        normal = weight[target] - weight[source]
        x = data.batch(halves.search[source][:10])[0].flatten(1)
        needs = (-((x - 0.5) @ normal) / normal.norm()).sort().values
        together = float(needs[math.ceil(0.8 * len(needs)) - 1])
        assert together * 0.98 <= float(look["common"][row]) <= 1.2 * together


def test_planted_trigger_stands_out():
    """A pixel that is always the same has a large weight for class 3: each class is led there."""
    model = linear(4, classes=8)
    x = 0.5 + 0.1 * torch.randn(1600, *SHAPE, generator=mi.rng(9))
    x[:, 0, 0, 0] = 0.5
    data = mi.ImageSet.from_float(x.clamp(0, 1), model.labels(x), list("abcdefgh"))
    plain = UniversalPerturbation().compare(model, data, rng=mi.rng(0))
    with torch.no_grad():
        model.module[1].weight[3, 0] = 30
        model.module[1].bias[3] = -0.5 * model.module[1].weight[3].sum()
    planted = UniversalPerturbation().compare(model, data, rng=mi.rng(0))
    assert planted.target == 3
    assert planted.scores["near/target"] > 2 * plain.scores["near/target"]
    assert isinstance(planted.change, Added)
    assert int(planted.change.pattern.abs().argmax()) == 0


def test_pairs_are_screened_by_slope():
    model = linear(classes=12)
    data = labelled(model, 900)
    look = UniversalPerturbation(pairs=20, steps=1, images=2).look(model, data, rng=mi.rng(0))
    assert look["pair"].shape == (20, 2)
    assert bool((look["pair"][:, 0] != look["pair"][:, 1]).all())


def test_what_found_nothing_is_the_farthest():
    size = torch.tensor([1.0, 4.0, torch.inf])
    assert _finite(size).tolist() == [1.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"size": 2.0}, "size"), ({"steps": 0}, "steps")],
)
def test_settings_out_of_range(settings, says):
    with pytest.raises(InputError, match=says):
        UniversalPerturbation(**settings)
