"""Maximum margin: closed forms on linear models, gamma beside SciPy, a planted backdoor."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import linprog
from scipy.special import logsumexp

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.defenses.inspect import MaximumMargin
from mithridate.defenses.inspect.maximum_margin import gamma_fit, improbability, log_tail
from mithridate.errors import InputError
from mithridate.testing.models import linear_model, linear_weights

SHAPE = (1, 4, 4)


def test_of_two_classes_the_maximum_is_half_the_l1_distance_of_their_weights():
    model = linear_model(SHAPE, classes=2)
    first, second = linear_weights(model)
    found = MaximumMargin(starts=2, lr=1).maximise(model, [0, 1], SHAPE, rng=mi.rng(0))
    expected = (first - second).abs().sum() / 2
    torch.testing.assert_close(found.margin, expected.expand(2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.image[0].flatten(), (first > second).float())


def test_of_several_it_is_that_of_the_linear_programme():
    model = linear_model(SHAPE, classes=4, seed=3)
    weights = linear_weights(model).double().numpy()
    found = MaximumMargin(steps=300, tolerance=0).maximise(model, range(4), SHAPE, rng=mi.rng(0))
    for k in range(4):
        apart = weights[k] - np.delete(weights, k, axis=0)  # t <= apart z, z in [-0.5, 0.5]
        most = linprog(
            [*np.zeros(16), -1],
            A_ub=np.c_[-apart, np.ones(3)],
            b_ub=np.zeros(3),
            bounds=[(-0.5, 0.5)] * 16 + [(None, None)],
        )
        assert found.margin[k] <= -most.fun + 1e-4
        assert found.margin[k] > 0.98 * -most.fun


def test_the_image_has_the_margin_and_lies_in_the_box():
    model = linear_model(SHAPE, classes=4)
    found = MaximumMargin(starts=3, steps=30).maximise(model, range(4), SHAPE, rng=mi.rng(0))
    assert found.image.min() >= 0
    assert found.image.max() <= 1
    goal = mi.Targeted(torch.arange(4))
    torch.testing.assert_close(-goal.margin(model.logits(found.image)), found.margin)


def test_all_classes_together_are_each_by_itself():
    model = linear_model(SHAPE, classes=4)
    plan = MaximumMargin(starts=3, steps=40)
    together = plan.maximise(model, range(4), SHAPE, rng=mi.rng(2))
    alone = plan.maximise(model, [2], SHAPE, rng=mi.rng(2))
    torch.testing.assert_close(together.margin[2], alone.margin[0])
    torch.testing.assert_close(together.image[2], alone.image[0])


def test_who_has_arrived_leaves_the_batch_and_loses_nothing():
    model = linear_model(SHAPE, classes=4)
    early, late = (
        MaximumMargin(starts=3, steps=200, tolerance=t).maximise(
            linear_model(SHAPE, classes=4), range(4), SHAPE, rng=mi.rng(0)
        )
        for t in (1e-3, 0)
    )
    torch.testing.assert_close(early.margin, late.margin, rtol=0.01, atol=0)
    MaximumMargin(starts=3, steps=200).maximise(model, range(4), SHAPE, rng=mi.rng(0))
    assert model.cost.gradients < 4 * 3 * 200


def test_the_fit_and_the_p_value_are_those_of_scipy():
    margin = torch.tensor([9.0, 12.0, 10.0, 14.0, 8.0, 11.0, 17.0], dtype=torch.float64)
    rest = sorted(margin.tolist())[:-1]
    shape, _, scale = stats.gamma.fit(rest, floc=0)
    assert np.allclose(gamma_fit(rest), (shape, scale), rtol=1e-4)
    p = 1 - stats.gamma.cdf(17.0, shape, scale=scale) ** 7
    assert improbability(margin) == pytest.approx(-math.log10(p), rel=1e-3)


def test_tails_too_small_for_a_float_have_a_logarithm():
    """For a whole shape n the tail is exp(-x) times the sum of x^i / i! below n."""
    for n, x in ((200, 2000.0), (50, 1500.0)):
        terms = [i * math.log(x) - math.lgamma(i + 1) for i in range(n)]
        assert log_tail(n, x) == pytest.approx(logsumexp(terms) - x, rel=1e-4)


def test_what_cannot_be_fitted_is_no_alarm_or_no_number():
    assert improbability(torch.tensor([-3.0, -1.0, -2.0])) == 0
    assert math.isnan(improbability(torch.tensor([1.0, torch.nan, 2.0])))
    same = improbability(torch.full((5,), 3.0))
    assert 0 <= same < 1
    assert math.isfinite(improbability(torch.tensor([1.0, 1.0, 1.0, 1e6])))


def test_more_extreme_is_more_suspicious():
    values = [improbability(torch.tensor([9.0, 11.0, 10.0, 12.0, top])) for top in range(12, 60)]
    assert values == sorted(values)


def test_a_planted_backdoor_is_found_and_a_clean_model_is_not_accused():
    train, test = mi.load_data("digits")
    patch = mi.triggers.Patch.named("c-top-right", image_shape=(1, 8, 8))
    planted = mi.poisons.BadNets(trigger=patch, target=7, count=200).poison(train, rng=mi.rng(7))
    suspect, clean = (
        MaximumMargin().compare(_fitted(images), test, rng=mi.rng(0))
        for images in (planted.images, train)
    )
    assert suspect.target == 7
    assert suspect.ranking[0][0] == 7
    assert suspect.statistic > -math.log10(0.05) > clean.statistic
    assert suspect.doubts == ()


def _fitted(images: mi.ImageSet) -> Classifier:
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    return mi.fit(network, images, epochs=10, rng=mi.rng(7))


def test_an_ascent_that_was_cut_short_is_doubted():
    _, test = mi.load_data("digits")
    model = Classifier(_fitted(test).module, classes=10)
    evidence = MaximumMargin(steps=11, lr=1e-3).compare(model, test, rng=mi.rng(0))
    assert [doubt.id for doubt in evidence.doubts] == ["loss-not-converged"]


def test_refusals_are_one_line():
    model = linear_model(SHAPE, classes=2)
    data = mi.ImageSet.from_float(torch.rand(4, *SHAPE), torch.tensor([0, 1, 0, 1]), ["a", "b"])
    with pytest.raises(InputError, match=r"at least 2 others, and there are 2 classes"):
        MaximumMargin().compare(model, data, rng=mi.rng(0))
    blind = Classifier(model.module, classes=2, gradients=False)
    with pytest.raises(InputError, match=r"needs gradients.*white-noise"):
        MaximumMargin().maximise(blind, [0], SHAPE, rng=mi.rng(0))
