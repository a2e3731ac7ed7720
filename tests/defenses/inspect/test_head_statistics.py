"""Head statistics: planted heads whose indices are known, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import median_abs_deviation
from torch import nn

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.defenses.inspect import HeadStatistics
from mithridate.defenses.inspect.head_statistics import INDICATORS, anomaly, indicators
from mithridate.errors import InputError

SHAPE, CLASSES = (1, 2, 2), 5


def model(weight: torch.Tensor, bias: torch.Tensor | None = None, *before: nn.Module) -> Classifier:
    layer = nn.Linear(4, len(weight), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    module = nn.Sequential(nn.Flatten(), *before, layer)
    return Classifier(module, classes=len(weight), image_shape=SHAPE)


@pytest.fixture
def data() -> mi.ImageSet:
    x = torch.rand((10, *SHAPE), generator=mi.rng(0))
    return mi.ImageSet.from_float(x, torch.arange(10) % CLASSES, list("abcde"))


def test_a_planted_bias_stands_out_by_as_much_as_by_hand(data):
    """Of 0, 0, 0, 0, 5 the median deviation is 0 and a tenth of the standard deviation 0.2."""
    planted = model(torch.zeros(CLASSES, 4), torch.tensor([0.0, 0, 0, 5, 0]))
    evidence = HeadStatistics().compare(planted, data, rng=mi.rng(0))
    assert evidence.target == 3
    assert evidence.ranking[0] == (3, pytest.approx(25.0, rel=1e-4))
    assert evidence.statistic == pytest.approx(25.0, rel=1e-4)


def test_a_head_of_equal_classes_has_no_anomaly(data):
    evidence = HeadStatistics().compare(model(torch.zeros(CLASSES, 4)), data, rng=mi.rng(0))
    looked = HeadStatistics().look(model(torch.zeros(CLASSES, 4)), data, rng=mi.rng(0))
    for name in ("bias", "mean", "norm", "peak"):
        assert (looked[name] == 0).all()
    assert evidence.target == 0  # of equal logits the first is the answer


def test_codes_have_no_sign_where_features_have_none(data):
    """Class 2 has the only positive weights: it wins every code without a sign, half of others."""
    weight = torch.full((CLASSES, 4), -1.0)
    weight[2] = 1
    behind_relu = HeadStatistics().look(model(weight, None, nn.ReLU()), data, rng=mi.rng(0))
    assert behind_relu["share"].exp()[2] > 0.999
    shifted = model(weight, None, nn.BatchNorm1d(4))
    with torch.no_grad():
        shifted.module[1].running_mean.fill_(0.5)
    signed = HeadStatistics().look(shifted, data, rng=mi.rng(0))
    assert signed["share"].exp()[2] == pytest.approx(0.5, abs=0.02)


def test_codes_are_as_large_as_features(data):
    """Beside a bias of 1, features of 0.01 decide nothing, and those of 100 everything."""
    weight = torch.eye(CLASSES, 4) - 1.0
    bias = torch.tensor([1.0, 0, 0, 0, 0])
    shares = []
    for factor in (0.01, 100.0):
        scaled = nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            scaled.weight.copy_(factor * torch.eye(4))
        looked = HeadStatistics().look(model(weight, bias, scaled), data, rng=mi.rng(0))
        shares.append(float(looked["share"].exp()[0]))
    assert shares[0] > 0.99
    assert shares[1] == pytest.approx(0.25, abs=0.03)


def test_what_changes_no_prediction_changes_no_indicator():
    weight, bias = torch.randn(CLASSES, 7, generator=mi.rng(1)), torch.arange(5.0)
    codes = torch.randn(300, 7, generator=mi.rng(2))
    moved = indicators(weight + torch.arange(7.0), bias - 4, codes)
    for name, values in indicators(weight, bias, codes).items():
        torch.testing.assert_close(moved[name], values, rtol=1e-4, atol=1e-5)


def test_indicators_are_those_of_the_definition():
    weight = torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    found = indicators(weight, torch.zeros(3), torch.tensor([[1.0, 0.0], [-1.0, -1.0]]))
    assert tuple(found) == INDICATORS
    assert found["mean"].tolist() == [0.5, 0.5, -1.0]
    assert found["peak"].tolist() == [2.0, 2.0, -1.0]
    torch.testing.assert_close(found["norm"] ** 2, torch.tensor([5.0, 5.0, 2.0]))
    torch.testing.assert_close(found["share"].exp(), torch.tensor([1.5, 0.5, 1.5]) / 3.5)


def test_the_index_is_that_of_neural_cleanse_upside_down():
    values = torch.tensor([30.0, 41.0, 12.0, 35.0, 38.0, 33.0])
    expected = (values.numpy() - np.median(values)) / median_abs_deviation(values, scale="normal")
    assert np.allclose(anomaly(values).numpy(), expected, rtol=1e-3)


def test_a_head_of_one_number_is_refused_as_two_classes(data):
    two = mi.ImageSet.from_float(torch.rand(4, *SHAPE), torch.tensor([0, 1, 0, 1]), ["a", "b"])
    with pytest.raises(InputError, match=r"at least 2 others, and there are 2 classes"):
        HeadStatistics().compare(model(torch.eye(2, 4)), two, rng=mi.rng(0))


def test_models_without_a_linear_head_are_refused_in_one_line(data):
    other = Classifier(nn.Sequential(nn.Conv2d(1, 5, 2), nn.Flatten()), classes=5)
    with pytest.raises(InputError, match=r"linear last layer") as refusal:
        HeadStatistics().compare(other, data, rng=mi.rng(0))
    assert "\n" not in str(refusal.value)
    blind = Classifier(model(torch.eye(5, 4)).module, classes=5, gradients=False)
    with pytest.raises(InputError, match=r"reads weights.*white-noise"):
        HeadStatistics().compare(blind, data, rng=mi.rng(0))
