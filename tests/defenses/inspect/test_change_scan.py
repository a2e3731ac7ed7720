"""The change scan: its shares by hand, and backdoors that no patch shows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.cost import Sizes
from mithridate.defenses.inspect import ChangeScan
from mithridate.errors import InputError

SHAPE = (1, 8, 8)


class Brightest(nn.Module):
    """Class by the quarter that is brightest; dark images of quarter `source`, or all, are 0."""

    def __init__(self, dark: float = 0.0, source: int | None = None) -> None:
        super().__init__()
        self.dark, self.source = dark, source

    def forward(self, x):
        quarters = nn.functional.avg_pool2d(x, 4).flatten(1)
        hidden = (quarters.max(1).values < self.dark).float()
        if self.source is not None:
            hidden = hidden * (quarters.argmax(1) == self.source)
        return 20 * quarters + 50 * hidden[:, None] * torch.eye(4)[0]


def bright(count: int = 80) -> mi.ImageSet:
    """One bright quarter, 0.8, on 0.2."""
    x = torch.full((count, *SHAPE), 0.2)
    labels = torch.arange(count) % 4
    for k, (top, left) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
        x[labels == k, :, top : top + 4, left : left + 4] = 0.8
    return mi.ImageSet.from_float(x, labels, list("abcd"))


def classifier(**settings) -> Classifier:
    return Classifier(Brightest(**settings), classes=4, image_shape=SHAPE)


def test_changes_are_what_they_say():
    changes = ChangeScan().changes(SHAPE)
    x = torch.rand(3, *SHAPE, generator=mi.rng(0))
    assert torch.equal(changes["times 0.3"].apply(x), 0.3 * x)
    assert torch.equal(changes["times 4"].apply(x), (4 * x).clamp(0, 1))
    assert torch.equal(changes["plus -0.2"].apply(x), (x - 0.2).clamp(0, 1))
    wave = 0.2 * (2 * math.pi * 3 * torch.arange(8) / 8).sin()
    assert torch.allclose(changes["wave 3 across"].apply(x), (x + wave).clamp(0, 1), atol=1e-6)
    assert torch.allclose(
        changes["wave 3 down"].apply(x), (x + wave[:, None]).clamp(0, 1), atol=1e-6
    )
    noise = (changes["blend 0.3 0"].apply(x) - 0.7 * x) / 0.3
    assert torch.allclose(noise, noise[:1].expand_as(noise), atol=1e-5)
    assert len(changes) == ChangeScan().cost(Sizes(test=1)).forwards - 1


def test_a_dark_image_is_another_class():
    """All to one by darkness: every class but the target goes there at 0.5 and below, all of it."""
    look = ChangeScan().look(classifier(dark=0.5), bright(), rng=mi.rng(0))
    names = list(ChangeScan().changes(SHAPE))
    assert torch.equal(look["before"], torch.eye(4))
    dark, dim = (look["led"][names.index(name)] for name in ("times 0.5", "times 0.7"))
    assert torch.equal(dark, torch.tensor([[1.0, 0, 0, 0]] * 4))
    assert torch.equal(dim, torch.eye(4))


@pytest.mark.parametrize("source", [None, 2])
def test_who_is_led_where_is_named(source):
    planted, clean = classifier(dark=0.5, source=source), classifier()
    found = ChangeScan().compare(planted, bright(), rng=mi.rng(0))
    assert found.statistic == 1.0
    assert found.target == 0
    assert found.scores["times 0.5/pair"] == 1.0
    assert found.scores["times 0.5/target"] == pytest.approx(1 if source is None else 1 / 3)
    assert source is None or found.source == source
    moved = planted.labels(found.change.apply(bright().batch(bright().of_class(2))[0]))
    assert moved.tolist() == [0] * 20
    nothing = ChangeScan().compare(clean, bright(), rng=mi.rng(0))
    assert max(nothing.scores.values()) == 0.0
    assert nothing.change is None


def test_settings_out_of_range():
    with pytest.raises(InputError, match="noises"):
        ChangeScan(noises=-1)
