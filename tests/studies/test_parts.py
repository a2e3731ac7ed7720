"""Parts of records: shares, numbers, mean images, surroundings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import mithridate as mi
from mithridate.metrics import wilson
from mithridate.reports import Record
from mithridate.studies.parts import (
    Subject,
    data_part,
    environment,
    mean_images,
    model_part,
    numbers,
    proportion,
    settings_of,
)


def test_mean_images_are_those_of_numpy() -> None:
    _, test = mi.load_data("digits")
    x, y = (part.numpy() for part in test.batch(range(len(test))))
    wanted = np.stack([x[y == k].mean(0, dtype=np.float64) for k in range(10)])
    assert mean_images(test).numpy() == pytest.approx(wanted, abs=1e-6)


def test_shares_without_images_are_nothing() -> None:
    assert proportion(None) is None
    assert proportion(wilson(0, 0)) is None
    assert proportion(wilson(3, 4))["k"] == 3


def test_numbers_that_are_none() -> None:
    assert numbers(torch.tensor([math.inf, -1.5, math.nan])) == [None, -1.5, None]


def test_settings_hold_names_of_norms() -> None:
    assert settings_of(mi.attacks.PGD(eps=1.0, norm=mi.L2, steps=2, step_size=0.5))["norm"] == "l2"


def test_parts_fit_the_schema() -> None:
    _, test = mi.load_data("digits")
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    model = model_part(Subject("m", mi.Classifier(net, classes=10)), None)
    assert model["architecture"] == "digits-cnn"
    assert model["parameters"] == sum(p.numel() for p in net.parameters())
    assert len(model["sha256"]) == len(data_part(test)["sha256"]) == 64
    fields = Record.model_fields
    assert fields["model"].annotation.model_validate(model).name == "m"
    assert fields["data"].annotation.model_validate(data_part(test)).n == 360


def test_environment_names_what_a_result_depends_on() -> None:
    found = environment(torch.device("cpu"), 7)
    assert {"mithridate", "torch", "numpy", "python", "device", "seed", "revision"} <= found.keys()
    assert (found["device"], found["seed"]) == ("cpu", 7)
