"""The digits with a backdoor, and what was trained on them."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import mithridate as mi


class Real(NamedTuple):
    """The digits, poisoned or not, and what was trained on them."""

    poisoned: mi.ImageSet
    clean: mi.ImageSet
    poison: Tensor
    model: mi.Classifier
    clean_model: mi.Classifier
    test: mi.ImageSet


@pytest.fixture(scope="session")
def digits() -> Real:
    """BadNets at a tenth of all other classes, trained for a few seconds."""
    train, test = mi.load_data("digits")
    trigger = mi.triggers.Patch.named("checker-bottom-right", image_shape=(1, 8, 8))
    attack = mi.poisons.BadNets(trigger=trigger, target=1, fraction=0.1)
    made = attack.poison(train, rng=mi.rng(0))
    poison = torch.zeros(len(train), dtype=torch.bool)
    poison[made.indices] = True
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    models = [
        mi.fit(network, data, epochs=8, batch_size=32, lr=2e-3, rng=mi.rng(0))
        for data in (made.images, train)
    ]
    return Real(made.images, train, poison, *models, test)


@pytest.fixture(scope="session")
def to_the_next(digits: Real) -> tuple[mi.ImageSet, Tensor]:
    """A tenth of every class stamped and sent to the next, and which images: bool (N,)."""
    trigger = mi.triggers.Patch.named("block-bottom-right", image_shape=(1, 8, 8))
    attack = mi.poisons.BadNets(trigger=trigger, all_to_all=True, fraction=0.1)
    made = attack.poison(digits.clean, rng=mi.rng(0))
    bad = torch.zeros(len(digits.clean), dtype=torch.bool)
    bad[made.indices] = True
    return made.images, bad
