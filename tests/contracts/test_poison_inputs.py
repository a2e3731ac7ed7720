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


USUAL: dict[str, tuple[type[Poison], dict[str, Any]]] = {
    "badnets": (BadNets, {"trigger": PIXEL, "target": 0}),
    "stamped-only": (StampedOnly, {"trigger": PIXEL, "target": 0}),
    "clean-label": (CleanLabel, {"trigger": PIXEL, "target": 0, "eps": 0.1, "steps": 1}),
    "clean-label-gan": (CleanLabelGAN, {"trigger": PIXEL, "target": 0, "steps": 1}),
    "adversarial-poisons": (AdversarialPoisons, {"steps": 1}),
    "feature-collision": (FeatureCollision, {"base": 0, "row": 0, "steps": 2}),
    "wanet": (WaNet, {"target": 0}),
}
FRACTIONS = [name for name in USUAL if name != "feature-collision"]
COUNTS = [name for name in USUAL if name != "adversarial-poisons"]
STAMPING = ["badnets", "stamped-only", "clean-label", "clean-label-gan"]


def make(name: str, **given: Any) -> Poison:
    cls, settings = USUAL[name]
    gan = {"generator": blank_gan()} if cls is CleanLabelGAN else {}
    return cls(**{**settings, **gan, **given})


def aimed(name: str, target: Any) -> Poison:
    """At a class; some poisons call it their base."""
    if name == "feature-collision":
        return make(name, base=target, row=None, image=torch.zeros(1, 12, 12))
    return make(name, target=target, count=2)


def stamping(name: str, trigger: Any) -> Poison:
    return make(name, trigger=trigger, count=2)


@pytest.mark.parametrize("name", FRACTIONS)
@pytest.mark.parametrize("fraction", [0, 0.0, -0.1, 1.1, float("nan"), "0.1", True])
def test_fraction_out_of_range(name: str, fraction: Any) -> None:
    assert "fraction" in refused(lambda: make(name, fraction=fraction))


@pytest.mark.parametrize("name", FRACTIONS)
def test_shares_of_all_and_of_none(name: str) -> None:
    """1 is legal: the whole source class of BadNets, all of the target class in Turner's figure."""
    cover = {"cover": 0} if name == "wanet" else {}
    poisoned = run(make(name, fraction=1.0, **cover), striped_set())
    eligible = {"badnets": 16, "wanet": 16, "adversarial-poisons": 24}.get(name, 8)
    assert len(poisoned) == eligible
    text = refused(lambda: run(make(name, fraction=0.001, **cover), striped_set()))
    assert "is none: raise it" in text


@pytest.mark.parametrize("name", COUNTS)
def test_count_out_of_range(name: str) -> None:
    for count in (0, -3, 1.5, "3"):
        assert "count" in refused(lambda n=count: make(name, count=n))  # type: ignore[misc]
    if name != "feature-collision":
        assert "only" in refused(lambda: run(make(name, count=1000), striped_set()))


@pytest.mark.parametrize("name", COUNTS)
def test_target_that_is_no_class(name: str) -> None:
    for target in (3, 99):
        assert str(target) in refused(lambda c=target: run(aimed(name, c), striped_set()))  # type: ignore[misc]
    for target in (-1, 1.0, True, "one"):
        assert "class number" in refused(lambda c=target: aimed(name, c))  # type: ignore[misc]
    data = striped_set()
    without = data.subset((data.labels != 1).nonzero()[:, 0])
    if name != "feature-collision":
        assert "no image of class 1" in refused(lambda: run(aimed(name, 1), without))


@pytest.mark.parametrize("name", ["stamped-only", "clean-label", "clean-label-gan"])
def test_target_is_needed(name: str) -> None:
    assert "target" in refused(lambda: aimed(name, None))


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
        assert len(run(stamping(name, trigger), striped_set())) == 2
    else:
        refused(lambda: run(stamping(name, trigger), striped_set()))
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
        text = refused(lambda t=trigger: run(stamping(name, t), striped_set()))  # type: ignore[misc]
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
        found = run(stamping(name, trigger), colour_set())
        changed = found.images.raw(found.indices) != colour_set().raw(found.indices)
        assert bool(changed.flatten(2).any(2).all())  # in every channel
    grey = Blend(images=torch.ones(1, 12, 12))
    assert "(1, 12, 12)" in refused(lambda: run(stamping(name, grey), colour_set()))


@pytest.mark.parametrize("name", STAMPING)
@pytest.mark.parametrize("trigger", [None, "c-top-right", 3])
def test_trigger_that_is_none(name: str, trigger: Any) -> None:
    assert "trigger is a Trigger" in refused(lambda: stamping(name, trigger))


@pytest.mark.parametrize("name", ["clean-label", "adversarial-poisons", "feature-collision"])
def test_surrogate_that_is_none(name: str) -> None:
    poison = make(name, **({"count": 1} if name == "clean-label" else {}))
    for surrogate in (None, torch.nn.Flatten()):
        text = refused(
            lambda s=surrogate: poison.poison(striped_set(), surrogate=s, rng=rng(0))  # type: ignore[misc]
        )
        assert text.startswith(f"{name} is crafted against a model")
