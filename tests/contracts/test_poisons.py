"""Our triggers and poisons pass the suites that we ship."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mithridate import component
from mithridate.networks.wgan import WGAN
from mithridate.norms import L2
from mithridate.poisons import (
    AdversarialPoisons,
    BadNets,
    CleanLabel,
    CleanLabelGAN,
    CraftedPoison,
    FeatureCollision,
    Poison,
    StampedOnly,
    Trigger,
    WaNet,
)
from mithridate.poisons.base import ImageShape
from mithridate.poisons.triggers import (
    Blend,
    CornerPattern,
    InsertedImage,
    Multiply,
    Patch,
    RandomLocation,
    SinglePixel,
    Sinusoid,
    Warp,
)
from mithridate.testing import (
    CraftedPoisonConformance,
    PoisonConformance,
    TriggerConformance,
)
from mithridate.testing.poisons import striped_surrogate

GREY, COLOUR = (1, 12, 12), (3, 12, 12)
Cases = dict[str, tuple[ImageShape, Callable[[ImageShape], Any]]]


def off_the_object(shape: ImageShape) -> RandomLocation:
    return RandomLocation(patch=Patch.named("block-top-left", image_shape=shape))


def colliding(shape: ImageShape, **more: Any) -> FeatureCollision:
    image = torch.full(shape, 0.6)
    base = (int(striped_surrogate(shape).labels(image[None])) + 1) % 3
    return FeatureCollision(base=base, image=image, count=2, watermark=0.1, steps=10, **more)


TRIGGERS: Cases = {
    "single pixel": (GREY, lambda _: SinglePixel()),
    "patch": (GREY, lambda shape: Patch.named("r-bottom-left", image_shape=shape)),
    "patch on colour": ((3, 32, 32), lambda s: Patch.named("r-bottom-left", image_shape=s)),
    "flat mask on colour": (COLOUR, lambda _: Patch(mask=torch.eye(12), value=0.5)),
    "inserted image": (
        GREY,
        lambda _: InsertedImage(image=torch.full((3, 4), 0.7), top=-3, left=0, alpha=0.5),
    ),
    "random location": (GREY, off_the_object),
    "random location on colour": ((3, 32, 32), off_the_object),
    "multiply": (GREY, lambda _: Multiply()),
    "blend": (
        GREY,
        lambda shape: Blend(images=torch.rand(4, *shape, generator=torch.Generator())),
    ),
    "convex blend": (
        GREY,
        lambda shape: Blend(images=torch.full(shape, 0.95), additive=False, alpha=0.2),
    ),
    "blend of noise": (GREY, lambda _: Blend(noise=3, additive=False, alpha=0.2)),
    "corner": (GREY, lambda _: CornerPattern(corner="top-left", amplitude=32 / 255)),
    "four corners": ((3, 10, 12), lambda _: CornerPattern(corner="all")),
    "sinusoid": (GREY, lambda _: Sinusoid(frequency=2)),
    "warp": (GREY, lambda _: Warp(strength=2.0)),
    "warp of colour": ((3, 12, 16), lambda _: Warp()),
    "noisy warp": (GREY, lambda _: Warp(noise=True)),
}
POISONS: Cases = {
    "badnets": (GREY, lambda _: BadNets(trigger=SinglePixel(), target=0, source=2, count=3)),
    "every source": (GREY, lambda _: BadNets(trigger=Blend(), target=0, fraction=0.4)),
    "all to all": (GREY, lambda _: BadNets(trigger=SinglePixel(), all_to_all=True, count=7)),
    "appended": (
        GREY,
        lambda shape: BadNets(trigger=off_the_object(shape), target=1, count=5, append=True),
    ),
    "stamped only": (
        GREY,
        lambda _: StampedOnly(trigger=Sinusoid(frequency=2), target=2, fraction=0.5),
    ),
    "generator": (
        GREY,
        lambda shape: CleanLabelGAN(
            trigger=CornerPattern(),
            target=1,
            count=4,
            generator=WGAN(shape, latent=4, width=0.1),
            steps=3,
        ),
    ),
    "wanet": (GREY, lambda _: WaNet(trigger=Warp(strength=2.0), target=0, count=4)),
    "wanet, all to all": (
        GREY,
        lambda _: WaNet(trigger=Warp(strength=2.0), all_to_all=True, count=4, cover=1.0),
    ),
}
CRAFTED: Cases = {
    "clean label": (
        GREY,
        lambda _: CleanLabel(trigger=CornerPattern(), target=1, count=4, eps=0.1, steps=3),
    ),
    "clean label in l2": (
        COLOUR,
        lambda _: CleanLabel(
            trigger=CornerPattern(corner="all", amplitude=16 / 255),
            target=0,
            fraction=1.0,
            eps=1.5,
            norm=L2,
            steps=3,
        ),
    ),
    "adversarial": (GREY, lambda _: AdversarialPoisons(steps=3, fraction=0.5)),
    "untargeted": (GREY, lambda _: AdversarialPoisons(steps=3, shift=None)),
    "collision": (GREY, colliding),
    "collision, appended": (GREY, lambda shape: colliding(shape, append=True)),
}


def choosing(cases: Cases):
    """A fixture by which a suite runs once for each case."""

    @pytest.fixture(autouse=True, params=cases)
    def _choose(self, request):
        self.image_shape, self.case = cases[request.param]

    return _choose


class TestTriggers(TriggerConformance):
    _choose = choosing(TRIGGERS)

    def make(self) -> Trigger:
        return self.case(self.image_shape)


class TestPoisons(PoisonConformance):
    _choose = choosing(POISONS)

    def make(self) -> Poison:
        return self.case(self.image_shape)


class TestCraftedPoisons(CraftedPoisonConformance):
    _choose = choosing(CRAFTED)

    def make(self) -> CraftedPoison:
        return self.case(self.image_shape)


@pytest.mark.parametrize(
    ("kind", "cases"), [("triggers", TRIGGERS), ("poisons", POISONS | CRAFTED)]
)
def test_every_registered_component_has_a_suite(kind: str, cases: Cases) -> None:
    tested = {component.name_of(make(shape)) for shape, make in cases.values()}
    assert tested == set(component.TABLES[kind])
