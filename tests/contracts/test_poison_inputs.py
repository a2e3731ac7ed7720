"""Bad input to poisons and triggers: one clear line each, whatever the poison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from mithridate.classifier import Classifier
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError
from mithridate.networks.wgan import WGAN
from mithridate.poisons import (
    AdversarialPoisons,
    BadNets,
    CleanLabel,
    CleanLabelGAN,
    FeatureCollision,
    Poison,
    Poisoned,
    StampedOnly,
    Trigger,
    WaNet,
    poisoned_test,
)
from mithridate.poisons.triggers import (
    Blend,
    CornerPattern,
    InsertedImage,
    Patch,
    RandomLocation,
    SinglePixel,
    Warp,
)
from mithridate.rng import rng
from mithridate.testing.poisons import striped_images, striped_set, striped_surrogate

PIXEL = SinglePixel()


def colour_set() -> ImageSet:
    return striped_set((3, 12, 12))


@cache
def blank_gan(shape: tuple[int, int, int] = (1, 12, 12)) -> WGAN:
    return WGAN(shape, latent=4, width=0.1)


def run(poison: Poison, data: ImageSet, surrogate: Classifier | None = None) -> Poisoned:
    shape = data.image_shape
    if isinstance(poison, CleanLabelGAN):
        poison = replace(poison, generator=blank_gan(shape))
    return poison.poison(data, surrogate=surrogate or striped_surrogate(shape), rng=rng(0))


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as raised:
        call()
    text = str(raised.value)
    assert "\n" not in text
    assert 10 < len(text) < 250
    return text


def collision(target: Any = 0, **more: Any) -> FeatureCollision:
    return FeatureCollision(base=target, image=torch.zeros(1, 12, 12), steps=2, **more)


def stamped(cls: type[Poison], **usual: Any) -> Callable[..., Poison]:
    return lambda **given: cls(**{"trigger": PIXEL, "target": 0, **usual, **given})


POISONS: dict[str, Callable[..., Poison]] = {
    "badnets": stamped(BadNets),
    "stamped-only": stamped(StampedOnly),
    "clean-label": stamped(CleanLabel, eps=0.1, steps=1),
    "clean-label-gan": stamped(CleanLabelGAN, generator=blank_gan(), steps=1),
    "wanet": stamped(WaNet, trigger=Warp()),
    "adversarial-poisons": lambda **given: AdversarialPoisons(steps=1, **given),
    "feature-collision": collision,
}
FRACTIONS = [name for name in POISONS if name != "feature-collision"]
COUNTS = [name for name in POISONS if name != "adversarial-poisons"]
STAMPING = ["badnets", "stamped-only", "clean-label", "clean-label-gan"]


@pytest.mark.parametrize("name", FRACTIONS)
@pytest.mark.parametrize("fraction", [0, 0.0, -0.1, 1.1, float("nan"), "a tenth", True])
def test_fraction_out_of_range(name: str, fraction: Any) -> None:
    assert "fraction" in refused(lambda: POISONS[name](fraction=fraction))


@pytest.mark.parametrize("name", FRACTIONS)
def test_fraction_1_is_all(name: str) -> None:
    """Legal: the whole source class of BadNets, all of the target class in Turner's figure."""
    data = striped_set()
    cover = {"cover": 0} if name == "wanet" else {}
    poisoned = run(POISONS[name](fraction=1.0, **cover), data)
    eligible = {"badnets": 16, "wanet": 16, "adversarial-poisons": 24}.get(name, 8)
    assert len(poisoned) == eligible


@pytest.mark.parametrize("name", FRACTIONS)
def test_fraction_that_comes_to_no_image(name: str) -> None:
    assert "is none: raise it" in refused(lambda: run(POISONS[name](fraction=0.001), striped_set()))


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("count", [0, -3, 1.5, "three"])
def test_count_out_of_range(name: str, count: Any) -> None:
    assert "count" in refused(lambda: POISONS[name](count=count))


@pytest.mark.parametrize("name", COUNTS)
def test_count_larger_than_the_class(name: str) -> None:
    assert "only" in refused(lambda: run(POISONS[name](count=1000), striped_set()))


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("target", [3, 99])
def test_target_that_is_no_class(name: str, target: int) -> None:
    text = refused(lambda: run(POISONS[name](target=target, count=2), striped_set()))
    assert str(target) in text


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("target", [-1, 1.5, True, "one"])
def test_target_that_is_no_class_number(name: str, target: Any) -> None:
    text = refused(lambda: POISONS[name](target=target, count=2))
    assert "class number" in text or "whole number" in text


@pytest.mark.parametrize("name", sorted(set(COUNTS) - {"feature-collision"}))
def test_target_of_which_there_is_no_image(name: str) -> None:
    data = striped_set()
    without = data.subset((data.labels != 1).nonzero()[:, 0])
    assert "no image of class 1" in refused(lambda: run(POISONS[name](target=1, count=2), without))


@pytest.mark.parametrize("name", ["stamped-only", "clean-label", "clean-label-gan"])
def test_target_is_needed(name: str) -> None:
    assert "target" in refused(lambda: POISONS[name](target=None, count=2))


def test_source_equal_to_target() -> None:
    for make in (
        lambda: BadNets(trigger=PIXEL, source=2, target=2, count=1),
        lambda: WaNet(source=2, target=2, count=1),
    ):
        assert "both class 2" in refused(make)
    test = striped_set()
    row = int(test.of_class(2)[0])
    assert "of the base class 2" in refused(lambda: FeatureCollision(base=2, row=row).aim(test))


OUTSIDE: list[Trigger] = [
    SinglePixel(row=12),
    SinglePixel(col=-13),
    Patch(mask=torch.ones(28, 28)),
    Patch.named("c-top-right"),
    InsertedImage(image=torch.ones(13, 13)),
    InsertedImage(image=torch.ones(4, 4), top=10),
    InsertedImage(image=torch.ones(4, 4), left=-20),
    RandomLocation(patch=Patch(mask=torch.ones(13, 2))),
    Blend(images=torch.ones(1, 28, 28)),
]


@pytest.mark.parametrize("name", STAMPING)
@pytest.mark.parametrize("trigger", OUTSIDE, ids=lambda t: type(t).__name__)
def test_trigger_larger_than_the_image_or_outside_it(name: str, trigger: Trigger) -> None:
    """A named patch is laid out anew instead: only as a bare trigger does it not fit."""
    x = striped_images(2, (1, 12, 12))
    refused(lambda: trigger.stamp(x, rng=rng(0)))
    if isinstance(trigger, Patch) and trigger.name:
        assert len(run(POISONS[name](trigger=trigger, count=2), striped_set())) == 2
    else:
        refused(lambda: run(POISONS[name](trigger=trigger, count=2), striped_set()))
        refused(lambda: poisoned_test(striped_set(), trigger, target=0, rng=rng(0)))


def test_images_too_small_for_a_named_patch() -> None:
    data = striped_set((1, 3, 3))
    attack = BadNets(trigger=Trigger.named("hollow-square"), target=0, count=1)
    assert "smaller shape" in refused(lambda: run(attack, data))
    four = StampedOnly(trigger=CornerPattern(corner="all"), target=0, count=1)
    assert "6 x 6" in refused(lambda: run(four, data))


@pytest.mark.parametrize("name", STAMPING)
def test_colour_trigger_on_grey_images(name: str) -> None:
    mask = torch.ones(3, 12, 12)
    for trigger in (
        Patch(mask=mask),
        InsertedImage(image=torch.ones(3, 4, 4)),
        RandomLocation(patch=Patch(mask=mask[:, :2, :2])),
        Blend(images=torch.ones(3, 12, 12)),
    ):
        text = refused(lambda t=trigger: run(POISONS[name](trigger=t, count=2), striped_set()))  # type: ignore[misc]
        assert "3" in text


@pytest.mark.parametrize("name", STAMPING)
def test_grey_trigger_on_colour_images(name: str) -> None:
    """Masks and stickers go into every channel; a picture of the whole image must be one."""
    for trigger in (
        Patch(mask=torch.ones(1, 12, 12), value=0.99),
        InsertedImage(image=torch.full((4, 4), 0.99)),
        InsertedImage(image=torch.full((1, 4, 4), 0.99)),
        CornerPattern(),
        Warp(strength=2.0),
    ):
        poisoned = run(POISONS[name](trigger=trigger, count=2), colour_set())
        changed = poisoned.images.raw(poisoned.indices) != colour_set().raw(poisoned.indices)
        assert bool(changed.flatten(2).any(2).all())  # in every channel
    grey = Blend(images=torch.ones(1, 12, 12))
    assert "(1, 12, 12)" in refused(lambda: run(POISONS[name](trigger=grey, count=2), colour_set()))


@pytest.mark.parametrize("name", STAMPING)
@pytest.mark.parametrize("trigger", [None, "c-nowhere", 3])
def test_trigger_that_is_none(name: str, trigger: Any) -> None:
    assert "rigger" in refused(lambda: POISONS[name](trigger=trigger, count=2))
