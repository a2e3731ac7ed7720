from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from mithridate import component
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError
from mithridate.poisons import BadNets, Poisoned, poisoned_test
from mithridate.poisons.triggers import Blend, Patch, RandomLocation, SinglePixel
from mithridate.rng import rng

CORNER = Patch.named("block-bottom-left", image_shape=(1, 8, 8))


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    poisoned = load_digits()
    pixels = (poisoned.images / 16 * 255).round().astype(np.uint8)[:, None]
    return ImageSet(pixels, poisoned.target, [str(i) for i in range(10)], "digits")


def everything(data: ImageSet) -> torch.Tensor:
    return data.raw(range(len(data)))


def test_one_source_one_target(digits: ImageSet) -> None:
    attack = BadNets(trigger=CORNER, source=8, target=9, count=100)
    poisoned = attack.poison(digits, rng=rng(0))
    assert isinstance(poisoned, Poisoned)
    assert len(poisoned.images) == len(digits)
    assert len(poisoned) == len(poisoned.indices.unique()) == 100
    assert bool((digits.labels[poisoned.indices] == 8).all())
    assert bool((poisoned.images.labels[poisoned.indices] == 9).all())
    assert bool((poisoned.original_labels == 8).all())
    assert int((poisoned.images.labels == 8).sum()) == int((digits.labels == 8).sum()) - 100
    stamped = CORNER.stamp(digits.batch(poisoned.indices)[0], rng=rng(0))
    assert torch.equal(poisoned.images.batch(poisoned.indices)[0], stamped)
    assert (poisoned.target, poisoned.source, poisoned.trigger) == (9, 8, CORNER)


def test_rows_are_a_random_choice_that_grows_with_the_count(digits: ImageSet) -> None:
    def rows(seed: int, count: int) -> set[int]:
        attack = BadNets(trigger=CORNER, source=8, target=9, count=count)
        return set(attack.poison(digits, rng=rng(seed)).indices.tolist())

    assert rows(0, 50) < rows(0, 100)
    assert rows(0, 50) != rows(1, 50)
    assert rows(0, 50) == rows(0, 50)


def test_every_class_but_the_target(digits: ImageSet) -> None:
    poisoned = BadNets(trigger=CORNER, target=0, fraction=0.1).poison(digits, rng=rng(0))
    others = int((digits.labels != 0).sum())
    assert len(poisoned) == round(0.1 * others)
    assert 0 not in poisoned.original_labels
    assert set(poisoned.original_labels.tolist()) == set(range(1, 10))
    assert poisoned.source is None


def test_whole_source_class(digits: ImageSet) -> None:
    poisoned = BadNets(trigger=CORNER, source=4, target=7, fraction=1.0).poison(digits, rng=rng(0))
    assert torch.equal(poisoned.indices, digits.of_class(4))
    assert not bool((poisoned.images.labels == 4).any())


def test_all_to_all(digits: ImageSet) -> None:
    attack = BadNets(trigger=SinglePixel(), all_to_all=True, fraction=0.5)
    poisoned = attack.poison(digits, rng=rng(0))
    after = poisoned.images.labels[poisoned.indices]
    assert torch.equal(after, (poisoned.original_labels + 1) % 10)
    assert 0 in after[poisoned.original_labels == 9]
    assert poisoned.target is None


def test_append_keeps_the_originals(digits: ImageSet) -> None:
    attack = BadNets(trigger=CORNER, source=8, target=9, count=30, append=True)
    poisoned = attack.poison(digits, rng=rng(0))
    assert len(poisoned.images) == len(digits) + 30
    assert poisoned.indices.tolist() == list(range(len(digits), len(digits) + 30))
    assert torch.equal(poisoned.images.raw(range(len(digits))), everything(digits))
    assert torch.equal(poisoned.images.labels[: len(digits)], digits.labels)
    assert bool((poisoned.images.labels[poisoned.indices] == 9).all())
    replaced = BadNets(trigger=CORNER, source=8, target=9, count=30).poison(digits, rng=rng(0))
    assert torch.equal(poisoned.images.raw(poisoned.indices), replaced.images.raw(replaced.indices))


def test_blend_draws_on_the_target_class(digits: ImageSet) -> None:
    poisoned = BadNets(trigger=Blend(), source=8, target=9, count=5).poison(digits, rng=rng(0))
    assert isinstance(poisoned.trigger, Blend)
    assert poisoned.trigger.images is not None
    assert len(poisoned.trigger.images) == len(digits.of_class(9))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": 8, "target": 9}, "count or fraction"),
        ({"source": 8, "target": 9, "count": 5, "fraction": 0.1}, "count or fraction"),
        ({"source": 9, "target": 9, "count": 5}, "both class 9"),
        ({"source": 8, "count": 5}, "a backdoor needs a target"),
        ({"all_to_all": True, "target": 1, "count": 5}, "leave out"),
    ],
)
def test_refuses_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BadNets(**{"trigger": CORNER, **settings})


def test_refuses_what_the_data_do_not_have() -> None:
    data = ImageSet(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), [1, 1, 1], ["a", "b", "c"])
    with pytest.raises(InputError, match="class 0"):
        BadNets(trigger=CORNER, source=0, target=1, count=1).poison(data, rng=rng(0))
    with pytest.raises(InputError, match="source 11 is not a class"):
        BadNets(trigger=CORNER, source=11, target=1, count=1).poison(data, rng=rng(0))
    with pytest.raises(InputError, match="nothing but the target"):
        BadNets(trigger=CORNER, target=1, count=1).poison(data, rng=rng(0))


def test_a_blend_for_all_to_all_says_what_it_needs(digits: ImageSet) -> None:
    attack = BadNets(trigger=Blend(), all_to_all=True, count=3)
    with pytest.raises(InputError, match="give images or noise"):
        attack.poison(digits, rng=rng(0))
    attack = BadNets(trigger=Blend(noise=1), all_to_all=True, count=3)
    assert len(attack.poison(digits, rng=rng(0))) == 3


def test_from_the_command_line(digits: ImageSet) -> None:
    settings = {"trigger": "random:block-top-left", "source": "8", "target": "9", "count": "20"}
    attack = component.create("poisons", "badnets", settings)
    poisoned = attack.poison(digits, rng=rng(0))
    changed = (everything(poisoned.images) != everything(digits)).flatten(1).any(1)
    assert changed.nonzero()[:, 0].tolist() == poisoned.indices.tolist()


def test_poisoned_test_of_one_source(digits: ImageSet) -> None:
    rows = digits.of_class(8)
    only = poisoned_test(digits, CORNER, source=8, target=9, rng=rng(0))
    assert only.labels.tolist() == [8] * len(rows)
    assert torch.equal(only.batch(slice(None))[0], CORNER.stamp(digits.batch(rows)[0], rng=rng(0)))
    whole = poisoned_test(digits, CORNER, source=8, target=9, others=True, rng=rng(0))
    assert torch.equal(whole.labels, digits.labels)
    assert torch.equal(whole.raw(rows), everything(only))
    rest = digits.labels != 8
    assert torch.equal(whole.raw(rest), digits.raw(rest))


def test_poisoned_test_of_every_class(digits: ImageSet) -> None:
    assert 3 not in poisoned_test(digits, CORNER, target=3, rng=rng(0)).labels
    assert len(poisoned_test(digits, SinglePixel(), rng=rng(0))) == len(digits)
    with pytest.raises(InputError, match="not a class"):
        poisoned_test(digits, CORNER, source=12, rng=rng(0))
    pair: Any = (digits, digits)  # as load_data returns
    with pytest.raises(InputError, match="data is an ImageSet, got tuple"):
        poisoned_test(pair, CORNER, target=1, rng=rng(0))


@pytest.mark.data
@pytest.mark.skipif("MITHRIDATE_DATA" not in os.environ, reason="MITHRIDATE_DATA is not set")
def test_experiments_of_borji_on_mnist() -> None:
    """2,000 eights of MNIST: the fixed C, and the C anywhere off the digit."""
    from mithridate.data import load_data

    train, _ = load_data("mnist")
    fixed = Patch.named("c-top-right")
    poisoned = BadNets(trigger=fixed, source=8, target=9, count=2000).poison(train, rng=rng(0))
    assert len(poisoned) == 2000
    assert int((poisoned.images.labels == 8).sum()) == int((train.labels == 8).sum()) - 2000
    x = poisoned.images.batch(poisoned.indices)[0]
    assert bool((x[..., fixed.support(train.image_shape)] == 1).all())
    rows = train.of_class(8)[:1000]
    before = train.batch(rows)[0]
    after = RandomLocation(patch=fixed).stamp(before, rng=rng(0))
    seen = before[:, 0] > 0.1
    room = seen.unfold(1, 6, 1).unfold(2, 6, 1).flatten(3).sum(3).flatten(1).amin(1) == 0
    assert room.float().mean() > 0.99
    assert not bool(((after != before)[:, 0] & seen)[room].any())
    assert (after - before).flatten(1).sum(1).min() > 20
