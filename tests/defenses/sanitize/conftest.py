"""Sets whose pixels are the features, so that every answer is known beforehand."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import mithridate as mi

WIDTH, CLASSES, EACH = 8, 4, 120


class Clouds(NamedTuple):
    """A set, a model whose features are its pixels, and which images are poison."""

    data: mi.ImageSet
    model: mi.Classifier
    poison: Tensor


def reader(classes: int = CLASSES, width: int = WIDTH) -> mi.Classifier:
    """Features are the pixels; the logit of class c is pixel c, ten times."""
    layer = nn.Linear(width, classes, bias=False)
    with torch.no_grad():
        layer.weight.copy_(10 * torch.eye(classes, width))
    return mi.Classifier(nn.Sequential(nn.Flatten(), layer), classes=classes)


def clouds(share: float = 0.0, seed: int = 0, target: int = 1, source: int = 2) -> Clouds:
    """Class c shines in pixel c, at 200 of 255 with a deviation of 5; all else is about 40.

    Poison: images of `source`, labelled `target`, a trigger of 250 in the last pixel, so many
    that they are `share` of the target's images. All that is left of their class is 120.
    """
    random = mi.rng(seed)
    labels = torch.arange(CLASSES).repeat_interleave(EACH)
    x = 40 + 5 * torch.randn(len(labels), WIDTH, generator=random)
    x[torch.arange(len(labels)), labels] += 160
    count = round(EACH * share / (1 - share)) if share else 0
    bad = 40 + 5 * torch.randn(count, WIDTH, generator=random)
    bad[:, [source, target, -1]] += torch.tensor([80.0, 160.0, 210.0])
    pixels = torch.cat([x, bad]).round().clamp(0, 255).byte().reshape(-1, 1, 1, WIDTH)
    labels = torch.cat([labels, torch.full((count,), target)])
    poison = torch.arange(len(labels)) >= CLASSES * EACH
    order = torch.randperm(len(labels), generator=random)
    names = [f"c{c}" for c in range(CLASSES)]
    data = mi.ImageSet(pixels[order], labels[order], names, "clouds")
    return Clouds(data, reader(), poison[order])


@pytest.fixture(scope="session")
def make():
    return clouds


@pytest.fixture(scope="session")
def model_of():
    return reader


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
