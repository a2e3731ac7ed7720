"""Neural Cleanse: classes together are classes one by one, and a planted shortcut is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import median_abs_deviation
from torch import nn

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.defenses.inspect import NeuralCleanse, anomaly
from mithridate.errors import InputError

QUICK = NeuralCleanse(steps=12, batch=8)


@pytest.fixture(scope="module")
def digits() -> mi.ImageSet:
    return mi.load_data("digits")[1]


@pytest.fixture(scope="module")
def model() -> Classifier:
    train, _ = mi.load_data("digits")
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    return mi.fit(network, train, epochs=6, rng=mi.rng(0))


def test_all_classes_together_are_each_by_itself(model, digits):
    together = QUICK.reverse(model, digits, range(10), rng=mi.rng(3))
    for k in (0, 4):
        alone = QUICK.reverse(model, digits, [k], rng=mi.rng(3))
        torch.testing.assert_close(together.mask[k], alone.mask[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.pattern[k], alone.pattern[0], rtol=1e-4, atol=1e-5)


def test_a_step_is_adam_on_the_loss_of_the_paper(model, digits):
    """Equation 3 by autograd and torch's Adam, with the cost at a fixed weight."""
    plan = NeuralCleanse(steps=4, batch=8, init_cost=0.01, patience=100)
    state = _descent(plan, digits)
    free = torch.zeros(10, 2, 8, 8, requires_grad=True)
    adam = torch.optim.Adam([free], lr=plan.lr, betas=(0.5, 0.9))
    state.weight += 0.01
    for step in range(4):
        x = digits.batch(torch.arange(8) + 8 * step)[0]
        mask, pattern = free.sigmoid()[:, None, :1], free.sigmoid()[:, None, 1:]
        shown = ((1 - mask) * x + mask * pattern).flatten(0, 1)
        labels = torch.arange(10).repeat_interleave(8)
        loss = nn.functional.cross_entropy(model.logits(shown), labels, reduction="sum") / 8
        adam.zero_grad()
        (loss + 0.01 * free[:, 0].sigmoid().sum()).backward()
        adam.step()
        state.step(model, x)
        torch.testing.assert_close(state.free, free.detach(), rtol=1e-3, atol=1e-4)


def _descent(plan, digits):
    from mithridate.defenses.inspect.neural_cleanse import _Descent

    return _Descent(plan, range(10), digits.image_shape, torch.device("cpu"))


def test_a_planted_patch_is_found_and_the_trigger_works(digits):
    train, _ = mi.load_data("digits")
    patch = mi.triggers.Patch.named("c-top-right", image_shape=(1, 8, 8))
    poison = mi.poisons.BadNets(trigger=patch, target=7, count=200)
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    images = poison.poison(train, rng=mi.rng(0)).images
    suspect = mi.fit(network, images, epochs=10, rng=mi.rng(0))
    evidence = NeuralCleanse(steps=250, batch=32).compare(suspect, digits, rng=mi.rng(0))
    assert evidence.target == 7
    assert evidence.ranking[0][0] == 7
    assert evidence.statistic > 2
    x = digits.batch(torch.arange(100))[0]
    shown = torch.where(evidence.mask, evidence.trigger, x)
    assert (suspect.labels(shown) == 7).float().mean() > 0.9


def test_the_index_is_that_of_the_paper():
    norms = torch.tensor([30.0, 41.0, 12.0, 35.0, 38.0, 33.0])
    scale = median_abs_deviation(norms.numpy(), scale="normal")
    expected = (np.median(norms) - norms.numpy()) / scale
    assert np.allclose(anomaly(norms).numpy(), expected, rtol=1e-3)


def test_a_model_without_gradients_is_refused_in_one_line(model, digits):
    blind = Classifier(model.module, classes=10, gradients=False)
    with pytest.raises(InputError, match=r"needs gradients.*white-noise"):
        QUICK.compare(blind, digits, rng=mi.rng(0))
