"""Our triggers and poisons pass the suites that we ship."""

from __future__ import annotations

import torch

from mithridate import registry
from mithridate.poisons import BadNets, Poison, Trigger
from mithridate.poisons.triggers import (
    Blend,
    InsertedImage,
    Multiply,
    Patch,
    RandomLocation,
    SinglePixel,
)
from mithridate.testing.poisons import PoisonSuite, TriggerSuite


class TestSinglePixel(TriggerSuite):
    def make(self) -> Trigger:
        return SinglePixel()


class TestPatch(TriggerSuite):
    def make(self) -> Trigger:
        return Patch.named("r-bottom-left", image_shape=self.image_shape)


class TestPatchOnColour(TestPatch):
    image_shape = (3, 32, 32)


class TestFlatMaskOnColour(TriggerSuite):
    image_shape = (3, 12, 12)

    def make(self) -> Trigger:
        return Patch(mask=torch.eye(12), value=0.5)


class TestInsertedImage(TriggerSuite):
    def make(self) -> Trigger:
        return InsertedImage(image=torch.full((3, 4), 0.7), top=-3, left=0, alpha=0.5)


class TestRandomLocation(TriggerSuite):
    def make(self) -> Trigger:
        return RandomLocation(patch=Patch.named("block-top-left", image_shape=self.image_shape))


class TestRandomLocationOnColour(TestRandomLocation):
    image_shape = (3, 32, 32)


class TestMultiply(TriggerSuite):
    def make(self) -> Trigger:
        return Multiply()


class TestBlend(TriggerSuite):
    def make(self) -> Trigger:
        return Blend(images=torch.rand(4, *self.image_shape, generator=torch.Generator()))


class TestConvexBlend(TriggerSuite):
    def make(self) -> Trigger:
        return Blend(images=torch.full(self.image_shape, 0.95), additive=False, alpha=0.2)


class TestBadNets(PoisonSuite):
    def make(self) -> Poison:
        return BadNets(trigger=SinglePixel(), target=0, source=2, count=3)


class TestBadNetsEverySource(PoisonSuite):
    def make(self) -> Poison:
        return BadNets(trigger=Blend(), target=0, fraction=0.4)


class TestBadNetsAllToAll(PoisonSuite):
    def make(self) -> Poison:
        return BadNets(trigger=SinglePixel(), all_to_all=True, count=7)


class TestBadNetsAppend(PoisonSuite):
    def make(self) -> Poison:
        return BadNets(trigger=TestRandomLocation().make(), target=1, count=5, append=True)


def test_every_registered_component_has_a_suite() -> None:
    ours = {TestSinglePixel, TestPatch, TestInsertedImage, TestRandomLocation, TestMultiply}
    made = {registry.name_of(suite().make()) for suite in ours | {TestBlend}}
    assert made == set(registry.TABLES["triggers"])
    assert set(registry.TABLES["poisons"]) == {registry.name_of(TestBadNets().make())}
