"""A small network of the digits, trained once."""

from __future__ import annotations

import pytest

import mithridate as mi


@pytest.fixture(scope="session")
def digits_model() -> mi.Classifier:
    train, _ = mi.load_data("digits")
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    return mi.fit(network, train, epochs=10, lr=3e-3, rng=mi.rng(0))
