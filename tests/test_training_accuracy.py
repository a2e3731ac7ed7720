"""The training loop learns: accuracy on images that it has not seen."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from mithridate.data import ImageSet, load_data
from mithridate.networks.base import create
from mithridate.rng import rng
from mithridate.training import fit, predict


def test_digits_reach_97_percent() -> None:
    pictures = load_digits()
    x = torch.from_numpy(np.rint(pictures.images * (255 / 16)).astype("uint8"))[:, None]
    data = ImageSet(x, pictures.target, [str(c) for c in range(10)], name="digits")
    order = torch.randperm(len(data), generator=rng(0))
    train, test = data.subset(order[:1400]), data.subset(order[1400:])
    net = create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    model = fit(net, train, epochs=15, rng=rng(1), lr=3e-3, validation=test)
    right = (predict(model, test) == test.labels).double().mean().item()
    assert right >= 0.97
    record = model.info["training"]
    assert record["validation"][-1] == right
    assert record["losses"][-1] == record["loss"] < 0.1 * record["losses"][0]
    assert (record["n"], record["data"], record["seed"]) == (1400, "digits", 1)
    assert record["data_sha256"] == train.fingerprint()
    assert not model.module.training
    assert (model.class_names, model.image_shape) == (train.class_names, (1, 8, 8))


@pytest.mark.slow
@pytest.mark.data
def test_borji_cnn_reaches_its_target_on_mnist() -> None:
    if not os.environ.get("MITHRIDATE_DATA"):
        pytest.skip("MITHRIDATE_DATA is not set: no MNIST")
    train, test = load_data("mnist")
    net = create("borji-cnn", image_shape=(1, 28, 28), classes=10)
    model = fit(net, train, epochs=5, rng=rng(0))
    assert (predict(model, test) == test.labels).double().mean().item() >= 0.989
