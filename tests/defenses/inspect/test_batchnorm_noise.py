"""BatchNorm noise: a model of two neurons by hand, and a planted backdoor beside a clean model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.defenses.inspect import BatchNormNoise
from mithridate.errors import InputError
from mithridate.networks.storage import digest

EPS = 0.3


@pytest.fixture
def data() -> mi.ImageSet:
    """Class k is a white pixel at k; 20 of each."""
    labels = torch.arange(40) % 2
    x = torch.zeros(40, 1, 1, 2)
    x[torch.arange(40), 0, 0, labels] = 1
    return mi.ImageSet.from_float(x, labels, ["first", "second"])


def two_neurons(lift: float) -> Classifier:
    """The logits are normalised pixels, 1 and -1, the second lifted by a bias."""
    norm = nn.BatchNorm1d(2)
    with torch.no_grad():
        norm.bias[1] = lift
    return Classifier(nn.Sequential(nn.Flatten(), norm).eval(), classes=2, image_shape=(1, 1, 2))


def test_the_noise_goes_where_the_loss_rises(data):
    """Both scales down, as all are right; the bias up, as most of the loss is of the first class.

    Each moves by eps in all from where it was drawn, and stays within eps.
    """
    x, y = data.batch(range(40))
    noise = BatchNormNoise(eps=EPS).harmful(two_neurons(1.9), x, y, rng=mi.rng(3))
    draws = mi.rng(3)
    starts = [(2 * torch.rand(2, generator=draws) - 1) * EPS for _ in range(2)]
    scale = (starts[0] - EPS).clamp(-EPS, EPS)
    shift = (starts[1] + EPS).clamp(-EPS, EPS)
    torch.testing.assert_close(noise[0], scale)
    torch.testing.assert_close(noise[1][1], shift[1])
    torch.testing.assert_close(noise[1][0], starts[1][0])  # of a bias of 0 nothing depends on it


@pytest.mark.parametrize(("lift", "share"), [(1.9, 1.0), (0.5, 0.0)])
def test_the_share_is_that_of_the_other_class_alone(data, lift, share):
    """Lifted by 1.9 the first class's logits are 1 and 0.9: a little noise, and all go over.

    Lifted by 0.5 they are 1 and -0.5: scales of 0.7 and a bias of 0.65 leave 0.7 and -0.05.
    """
    model = two_neurons(lift)
    evidence = BatchNormNoise(eps=EPS, steps=100).compare(model, data, rng=mi.rng(1))
    assert evidence.statistic == share
    assert dict(evidence.ranking) == {1: share, 0: 0.0}
    assert evidence.target == (1 if share else 0)


def test_nothing_of_the_model_changes(data):
    model = two_neurons(1.9)
    model.module[1].train()
    before = digest(model.module.state_dict())
    BatchNormNoise().compare(model, data, rng=mi.rng(0))
    assert digest(model.module.state_dict()) == before
    assert model.module[1].training


def test_cost_is_what_the_plan_says(data):
    from mithridate.cost import Sizes

    model, plan = two_neurons(1.9), BatchNormNoise(steps=7, images=10)
    plan.compare(model, data, rng=mi.rng(0))
    work = plan.cost(Sizes(test=40, classes=2))
    assert (model.cost.queries, model.cost.gradients) == (work.forwards, work.gradients) == (80, 70)


def test_a_planted_backdoor_takes_more_images_than_a_clean_model_sends_anywhere():
    train, test = mi.load_data("digits")
    patch = mi.triggers.Patch.named("c-top-right", image_shape=(1, 8, 8))
    planted = mi.poisons.BadNets(trigger=patch, target=7, count=200).poison(train, rng=mi.rng(0))
    shape = {"image_shape": (1, 8, 8), "classes": 10, "width": 0.25}
    suspect, clean = (
        BatchNormNoise().compare(
            mi.fit(mi.networks.create("resnet18", **shape), images, epochs=5, rng=mi.rng(0)),
            test,
            rng=mi.rng(0),
        )
        for images in (planted.images, train)
    )
    assert suspect.target == 7
    assert suspect.statistic > clean.statistic


def test_models_without_batch_normalisation_are_refused_in_one_line(data):
    plain = Classifier(nn.Flatten(), classes=2)
    with pytest.raises(InputError, match=r"needs batch normalisation.*has none") as refusal:
        BatchNormNoise().compare(plain, data, rng=mi.rng(0))
    assert "\n" not in str(refusal.value)
    blind = Classifier(two_neurons(0).module, classes=2, gradients=False)
    with pytest.raises(InputError, match=r"needs gradients.*white-noise"):
        BatchNormNoise().compare(blind, data, rng=mi.rng(0))
