"""Channel Lipschitz bounds as a score: planted outliers whose deviation is worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.defenses.inspect import ChannelLipschitz
from mithridate.errors import InputError

SHAPE = (1, 3, 3)


@pytest.fixture
def data() -> mi.ImageSet:
    x = torch.rand((4, *SHAPE), generator=mi.rng(0))
    return mi.ImageSet.from_float(x, torch.tensor([0, 1, 0, 1]), ["a", "b"])


def model(*layers: nn.Module) -> Classifier:
    channels = [one.out_channels for one in layers if isinstance(one, nn.Conv2d)][-1]
    head = nn.Linear(9 * channels, 2)
    return Classifier(nn.Sequential(*layers, nn.Flatten(), head).eval(), classes=2)


def of_bounds(bounds: list[float]) -> nn.Conv2d:
    """Kernels of one place: the bound is their size."""
    conv = nn.Conv2d(1, len(bounds), 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(bounds).view(-1, 1, 1, 1))
    return conv


def score(*layers: nn.Module, data: mi.ImageSet) -> float:
    return ChannelLipschitz().compare(model(*layers), data, rng=mi.rng(0)).statistic


def test_the_score_is_the_largest_deviation(data):
    bounds = [1.0, 2.0, 3.0, -4.0, 10.0]
    sizes = np.abs(bounds)
    expected = (10 - sizes.mean()) / sizes.std(ddof=1)
    assert score(of_bounds(bounds), data=data) == pytest.approx(expected, rel=1e-5)


def test_one_outlier_among_equals_has_the_largest_score_that_there_is(data):
    """(n - 1) / sqrt(n), which no channel among n can exceed."""
    assert score(of_bounds([1.0] * 15 + [7.0]), data=data) == pytest.approx(15 / 4, rel=1e-5)
    assert score(of_bounds([2.0] * 6), data=data) == 0


def test_batch_normalisation_counts(data):
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight[2] = -5
    assert score(of_bounds([1.0] * 4), norm, data=data) == pytest.approx(1.5, rel=1e-4)


def test_the_layer_with_the_outlier_decides(data):
    middle = nn.Conv2d(4, 1, 1)  # one channel: no layer to stand out of
    layers = of_bounds([1.0, 2.0, 1.0, 2.0]), middle, of_bounds([1.0] * 9)
    plain = score(*layers, data=data)
    with torch.no_grad():
        layers[2].weight[4] = 3
    assert plain == pytest.approx(0.5 / np.std([1, 2, 1, 2], ddof=1), rel=1e-5)
    assert score(*layers, data=data) == pytest.approx(8 / 3, rel=1e-5)


def test_it_names_no_class(data):
    evidence = ChannelLipschitz().compare(model(of_bounds([1.0, 3.0])), data, rng=mi.rng(0))
    assert evidence.target is None
    assert evidence.ranking == ()


def test_models_without_channels_are_refused_in_one_line(data):
    flat = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(9, 2)), classes=2)
    with pytest.raises(InputError, match=r"needs a convolution.*has none") as refusal:
        ChannelLipschitz().compare(flat, data, rng=mi.rng(0))
    assert "\n" not in str(refusal.value)
    blind = Classifier(flat.module, classes=2, gradients=False)
    with pytest.raises(InputError, match=r"reads weights.*white-noise"):
        ChannelLipschitz().compare(blind, data, rng=mi.rng(0))
