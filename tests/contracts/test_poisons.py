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
    FeatureCollision,
    StampedOnly,
    WaNet,
)
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
from mithridate.testing import CraftedPoisonConformance, PoisonConformance, TriggerConformance
from mithridate.testing.poisons import striped_surrogate

Shape = tuple[int, int, int]
Table = dict[str, Callable[[Shape], Any]]
"""What is tested, and how it is made for images of a shape: "NAME C x H x W" has one of its own."""


def shape_of(case: str, usual: Shape = (1, 12, 12)) -> Shape:
    """The shape that a case names, if it does."""
    sizes = [int(word) for word in case.split() if word.isdecimal()]
    return (sizes[0], sizes[1], sizes[2]) if sizes else usual


def some_noise(shape: Shape) -> torch.Tensor:
    return torch.rand(4, *shape, generator=torch.Generator())


def patch(name: str) -> Callable[[Shape], Patch]:
    return lambda shape: Patch.named(name, image_shape=shape)


def anywhere(shape: Shape) -> RandomLocation:
    return RandomLocation(patch=Patch.named("block-top-left", image_shape=shape))


TRIGGERS: Table = {
    "single pixel": lambda shape: SinglePixel(),
    "patch": patch("r-bottom-left"),
    "patch 3 x 32 x 32": patch("r-bottom-left"),
    "flat mask 3 x 12 x 12": lambda shape: Patch(mask=torch.eye(12), value=0.5),
    "inserted image": lambda shape: InsertedImage(
        image=torch.full((3, 4), 0.7), top=-3, left=0, alpha=0.5
    ),
    "random location": anywhere,
    "random location 3 x 32 x 32": anywhere,
    "multiply": lambda shape: Multiply(),
    "blend": lambda shape: Blend(images=some_noise(shape)),
    "convex blend": lambda shape: Blend(images=torch.full(shape, 0.95), additive=False, alpha=0.2),
    "blend of noise": lambda shape: Blend(noise=3, additive=False, alpha=0.2),
    "corner pattern": lambda shape: CornerPattern(corner="top-left", amplitude=32 / 255),
    "all corners 3 x 10 x 12": lambda shape: CornerPattern(corner="all"),
    "sinusoid": lambda shape: Sinusoid(frequency=2),
    "warp": lambda shape: Warp(strength=2.0),
    "warp 3 x 12 x 16": lambda shape: Warp(),
    "noisy warp": lambda shape: Warp(noise=True),
}
POISONS: Table = {
    "badnets": lambda shape: BadNets(trigger=SinglePixel(), target=0, source=2, count=3),
    "every source": lambda shape: BadNets(trigger=Blend(), target=0, fraction=0.4),
    "all to all": lambda shape: BadNets(trigger=SinglePixel(), all_to_all=True, count=7),
    "append": lambda shape: BadNets(trigger=anywhere(shape), target=1, count=5, append=True),
    "stamped only": lambda shape: StampedOnly(
        trigger=Sinusoid(frequency=2), target=2, fraction=0.5
    ),
    "generated": lambda shape: CleanLabelGAN(
        trigger=CornerPattern(),
        target=1,
        count=4,
        generator=WGAN(shape, latent=4, width=0.1),
        steps=3,
    ),
    "wanet": lambda shape: WaNet(trigger=Warp(strength=2.0), target=0, count=4),
    "wanet all to all": lambda shape: WaNet(
        trigger=Warp(strength=2.0), all_to_all=True, count=4, cover=1.0
    ),
}


def clean_label_in_l2(shape: Shape) -> CleanLabel:
    trigger = CornerPattern(corner="all", amplitude=16 / 255)
    return CleanLabel(trigger=trigger, target=0, fraction=1.0, eps=1.5, norm=L2, steps=3)


def collision(append: bool) -> Callable[[Shape], FeatureCollision]:
    def make(shape: Shape) -> FeatureCollision:
        image = torch.full(shape, 0.6)
        base = (int(striped_surrogate(shape).labels(image[None])) + 1) % 3
        return FeatureCollision(
            base=base, image=image, count=2, watermark=0.1, steps=10, append=append
        )

    return make


CRAFTED: Table = {
    "clean label": lambda shape: CleanLabel(
        trigger=CornerPattern(), target=1, count=4, eps=0.1, steps=3
    ),
    "clean label in L2 3 x 12 x 12": clean_label_in_l2,
    "adversarial": lambda shape: AdversarialPoisons(steps=3, fraction=0.5),
    "untargeted": lambda shape: AdversarialPoisons(steps=3, shift=None),
    "collision": collision(append=False),
    "collision appended": collision(append=True),
}


class TestTriggers(TriggerConformance):
    @pytest.fixture(autouse=True, params=TRIGGERS)
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.image_shape = shape_of(request.param)  # type: ignore[misc]
        self.make = lambda: TRIGGERS[request.param](self.image_shape)  # type: ignore[method-assign]

    def make(self) -> Any: ...


class TestPoisons(PoisonConformance):
    @pytest.fixture(autouse=True, params=POISONS)
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.make = lambda: POISONS[request.param](self.image_shape)  # type: ignore[method-assign]

    def make(self) -> Any: ...


class TestCraftedPoisons(CraftedPoisonConformance):
    @pytest.fixture(autouse=True, params=CRAFTED)
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.image_shape = shape_of(request.param)  # type: ignore[misc]
        self.make = lambda: CRAFTED[request.param](self.image_shape)  # type: ignore[method-assign]

    def make(self) -> Any: ...


@pytest.mark.parametrize(
    ("kind", "table"), [("triggers", TRIGGERS), ("poisons", POISONS | CRAFTED)]
)
def test_every_registered_component_has_a_case(kind: str, table: Table) -> None:
    made = {component.name_of(make(shape_of(case))) for case, make in table.items()}
    assert made == set(component.TABLES[kind])
