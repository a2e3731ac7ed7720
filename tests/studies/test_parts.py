"""Parts of records, and whether anything can be said about a model at all."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate.errors import InputError, NothingAssessedError
from mithridate.metrics import wilson
from mithridate.studies.parts import (
    box_iou,
    environment,
    mean_images,
    numbers,
    proportion,
    recipe_epochs,
)
from mithridate.studies.soundness import check_model


def test_mean_images_are_those_of_numpy():
    _, test = mi.load_data("digits")
    x, y = (part.numpy() for part in test.batch(range(len(test))))
    wanted = np.stack([x[y == k].mean(0, dtype=np.float64) for k in range(10)])
    assert mean_images(test).numpy() == pytest.approx(wanted, abs=1e-6)


def test_mean_images_of_a_thousand_large_classes_are_left_out():
    names = [str(k) for k in range(1000)]
    assert mean_images(mi.ImageSet(torch.zeros(1, 3, 224, 224).byte(), [7], names)) is None


def test_shares_without_images_and_numbers_that_are_none():
    assert proportion(None) is proportion(wilson(0, 0)) is None
    assert proportion(wilson(3, 4))["k"] == 3
    assert numbers(torch.tensor([math.inf, -1.5, math.nan])) == [None, -1.5, None]


def test_environment_names_what_a_result_depends_on():
    found = environment(torch.device("cpu"), 7)
    assert {"mithridate", "torch", "numpy", "python", "device", "seed", "revision"} <= found.keys()
    assert (found["device"], found["seed"]) == ("cpu", 7)


def test_epochs_of_the_controls_are_the_suspects_with_its_parents():
    train, _ = mi.load_data("digits")
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    model = mi.fit(net, train.subset(range(200)), epochs=3, rng=mi.rng(0))
    assert recipe_epochs(model, 1437) == 3
    more = mi.fit(model, train.subset(range(200)), epochs=2, rng=mi.rng(1))
    assert recipe_epochs(more, 1437) == 5
    plain = mi.Classifier(net, classes=10)
    assert (recipe_epochs(plain, 1437), recipe_epochs(plain, 60_000)) == (35, 5)


@pytest.mark.parametrize(
    ("first", "second", "iou"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 2, 2), (2, 2, 4, 4), 0.0),
        ((0, 0, 4, 4), (1, 1, 3, 3), 0.25),
        ((0, 0, 2, 3), (1, 1, 3, 4), 2 / 10),
    ],
)
def test_overlap(first, second, iou):
    assert box_iou(first, second) == pytest.approx(iou)


class Fixed(nn.Module):
    """The same logits for every image, which a single value is added to."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor([logits])

    def forward(self, x):
        return self.logits.expand(len(x), -1) + 0 * x.flatten(1)[:, :1]


DATA = mi.ImageSet(
    torch.tensor([[0, 255]] * 4).reshape(4, 1, 1, 2).byte(), [0, 1, 0, 1], ["a", "b"]
)


@pytest.mark.parametrize(
    ("model", "data", "kind", "text"),
    [
        (mi.Classifier(Fixed(0.0, 5.0), classes=2), DATA, NothingAssessedError, "constant model"),
        (mi.Classifier(Fixed(0.0, math.nan), classes=2), DATA, NothingAssessedError, "NaN"),
        (mi.Classifier(Fixed(0.25, 0.75), classes=2), DATA, InputError, "probabilities"),
        (mi.Classifier(Fixed(0.0, 1.0, 2.0), classes=3), DATA, InputError, "m has 3 classes"),
        (
            mi.Classifier(nn.Flatten(), classes=2, image_shape=(1, 2, 2)),
            DATA,
            InputError,
            "takes images",
        ),
        (
            mi.Classifier(Fixed(0.0, 5.0), classes=2),
            DATA.subset(range(1)),
            NothingAssessedError,
            "a single image",
        ),
    ],
)
def test_a_model_of_which_nothing_can_be_learned_is_refused(model, data, kind, text):
    with pytest.raises(kind, match=text):
        check_model("m", model, data)


def test_a_constant_model_may_be_attacked_and_data_of_one_class_is_no_sign():
    model = mi.Classifier(Fixed(5.0, 0.0), classes=2)
    check_model("m", model, DATA, varied=False)
    check_model("m", model, DATA.subset([0, 2]))
