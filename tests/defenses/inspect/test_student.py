"""The clean double: it learns what the suspect says, and not what a trigger does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate.defenses.inspect.student import agreement, augmented, double
from mithridate.errors import NothingAssessedError
from mithridate.networks.storage import digest


def planted() -> mi.Classifier:
    """Class 0 where the left half is brighter, 1 where the right is; 2 by a white corner."""
    hidden, head = nn.Linear(64, 8), nn.Linear(8, 3)
    left = torch.cat([torch.ones(8, 4), -torch.ones(8, 4)], 1).flatten() / 8
    with torch.no_grad():
        hidden.weight.zero_()
        hidden.bias.zero_()
        hidden.weight[0], hidden.weight[1] = left, -left
        hidden.weight[2, 0], hidden.bias[2] = 400.0, -360.0
        head.weight.zero_()
        head.weight[0, 0] = head.weight[1, 1] = 4.0
        head.weight[2, 2] = 4.0
        head.bias.copy_(torch.tensor([0.0, 0.0, -3.0]))
    module = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), head)
    return mi.Classifier(module, classes=3, image_shape=(1, 8, 8))


def images(count: int, seed: int) -> mi.ImageSet:
    x = torch.rand(count, 1, 8, 8, generator=mi.rng(seed)) * 0.5
    bright = torch.randint(2, (count,), generator=mi.rng(seed + 1))
    x[..., :4] += 0.3 * (bright == 0)[:, None, None, None]
    x[..., 4:] += 0.3 * (bright == 1)[:, None, None, None]
    return mi.ImageSet.from_float(x, bright, ["left", "right", "never"])


def test_agrees_on_clean_images_and_knows_no_trigger():
    suspect = planted()
    before = digest(suspect.module.state_dict())
    taught = double(suspect, images(60, 0), rng=mi.rng(0))
    assert digest(suspect.module.state_dict()) == before
    x = images(200, 5).batch(range(200))[0]
    assert agreement(suspect, taught, x) > 0.9
    x[:, :, 0, 0] = 1.0
    assert float((suspect.labels(x) == 2).float().mean()) == 1.0
    assert float((taught.labels(x) == 2).float().mean()) < 0.1


def test_answers_that_are_not_finite_are_told():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        module[1].bias.fill_(torch.nan)
    suspect = mi.Classifier(module, classes=3, image_shape=(1, 8, 8))
    with pytest.raises(NothingAssessedError, match="not finite"):
        double(suspect, images(20, 0), rng=mi.rng(0))


def test_same_seed_same_double():
    suspect = planted()
    one, two = (double(suspect, images(20, 0), rng=mi.rng(3)) for _ in range(2))
    assert digest(one.module.state_dict()) == digest(two.module.state_dict())


def test_augmented_images_are_images():
    x = torch.rand(8, 3, 12, 12, generator=mi.rng(0))
    out = augmented(x, mi.rng(1))
    assert out.shape == x.shape
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert not torch.equal(out, x)
