from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError
from mithridate.networks.storage import digest
from mithridate.poisons import FeatureCollision, Poisoned, retrain_last, targeted_success
from mithridate.rng import rng
from mithridate.testing.poisons import striped_surrogate


def noisy_set(n: int = 60) -> ImageSet:
    x = torch.rand(n, 1, 12, 12, generator=rng(3))
    return ImageSet.from_float(x, torch.arange(n) % 3, ["a", "b", "c"], "noise")


def test_last_layer_is_the_logistic_regression_of_the_features() -> None:
    """Against scikit-learn, on labels that cannot be told apart, so that the minimum is near."""
    data, victim = noisy_set(), striped_surrogate()
    model = retrain_last(victim, data, decay=1e-2)
    x, y = data.batch(range(len(data)))
    features = victim.features(x).numpy()
    oracle = LogisticRegression(C=1 / (len(data) * 1e-2), tol=1e-8, max_iter=1000)
    oracle.fit(features, y.numpy())
    assert np.allclose(model.scores(x).numpy(), oracle.predict_proba(features), atol=2e-3)


def test_the_rest_of_the_network_and_the_victim_stay() -> None:
    victim = striped_surrogate()
    before = digest(victim.module.state_dict())
    model = retrain_last(victim, noisy_set())
    assert digest(victim.module.state_dict()) == before
    x, _ = noisy_set().batch(range(5))
    assert torch.equal(model.features(x), victim.features(x))
    assert not torch.equal(model.last_linear().weight, victim.last_linear().weight)


def test_one_shot_transfer_on_real_digits() -> None:
    """One poison, features as wide as there are images to hold: the paper's setting, small."""
    train, test = mi.load_data("digits")
    few = train.subset(range(150))
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    victim = mi.fit(net, few, epochs=8, lr=3e-3, rng=rng(0))
    right = (victim.labels(test.batch(range(40))[0]) == test.labels[:40]).nonzero()[:, 0]
    trials, clean = [], retrain_last(victim, few)
    for row in right[:6].tolist():
        base = (int(test.labels[row]) + 1) % 10
        attack = FeatureCollision(base=base, row=row, beta=0.02, steps=80, append=True).aim(test)
        trials.append(attack.poison(few, surrogate=victim, rng=rng(row)))
        assert int(clean.labels(test.batch([row])[0])) != base
    rate = targeted_success(trials, victim, rng=rng(0))
    assert rate.k is not None
    assert rate.n == 6
    assert rate.k >= 4
    assert rate.low < rate.value


def test_end_to_end_trains_every_layer() -> None:
    data, victim = noisy_set(), striped_surrogate()
    rows = torch.tensor([0])
    poisoned = Poisoned(
        images=data, indices=rows, trigger=None, target=0, source=None,
        original_labels=data.labels[rows], aim=data.batch([0])[0][0],
    )  # fmt: skip
    rate = targeted_success([poisoned] * 2, victim, retrain="all", epochs=60, lr=1e-2, rng=rng(0))
    assert (rate.k, rate.n) == (2, 2)


def test_refuses() -> None:
    data, victim = noisy_set(), striped_surrogate()
    rows = torch.tensor([0])
    no_aim = Poisoned(
        images=data, indices=rows, trigger=None, target=0, source=None,
        original_labels=data.labels[rows],
    )  # fmt: skip
    with pytest.raises(InputError, match="at least one"):
        targeted_success([], victim, rng=rng(0))
    with pytest.raises(InputError, match="aims at no image"):
        targeted_success([no_aim], victim, rng=rng(0))
    with pytest.raises(InputError, match="'last'"):
        targeted_success([no_aim], victim, retrain="some", rng=rng(0))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"gives \(1, 4\)"):
        retrain_last(striped_surrogate(classes=4), data)
    flat = Classifier(nn.Sequential(nn.Conv2d(1, 3, 12), nn.Flatten()), classes=3)
    with pytest.raises(InputError, match="linear last layer"):
        retrain_last(flat, data)
