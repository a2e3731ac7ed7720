"""Our triggers and poisons pass the suites that we ship."""

from __future__ import annotations

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


class TestSinglePixel(TriggerConformance):
    def make(self) -> Trigger:
        return SinglePixel()


class TestPatch(TriggerConformance):
    def make(self) -> Trigger:
        return Patch.named("r-bottom-left", image_shape=self.image_shape)


class TestPatchOnColour(TestPatch):
    image_shape = (3, 32, 32)


class TestFlatMaskOnColour(TriggerConformance):
    image_shape = (3, 12, 12)

    def make(self) -> Trigger:
        return Patch(mask=torch.eye(12), value=0.5)


class TestInsertedImage(TriggerConformance):
    def make(self) -> Trigger:
        return InsertedImage(image=torch.full((3, 4), 0.7), top=-3, left=0, alpha=0.5)


class TestRandomLocation(TriggerConformance):
    def make(self) -> Trigger:
        return RandomLocation(patch=Patch.named("block-top-left", image_shape=self.image_shape))


class TestRandomLocationOnColour(TestRandomLocation):
    image_shape = (3, 32, 32)


class TestMultiply(TriggerConformance):
    def make(self) -> Trigger:
        return Multiply()


class TestBlend(TriggerConformance):
    def make(self) -> Trigger:
        return Blend(images=torch.rand(4, *self.image_shape, generator=torch.Generator()))


class TestConvexBlend(TriggerConformance):
    def make(self) -> Trigger:
        return Blend(images=torch.full(self.image_shape, 0.95), additive=False, alpha=0.2)


class TestBlendOfNoise(TriggerConformance):
    def make(self) -> Trigger:
        return Blend(noise=3, additive=False, alpha=0.2)


class TestCornerPattern(TriggerConformance):
    def make(self) -> Trigger:
        return CornerPattern(corner="top-left", amplitude=32 / 255)


class TestFourCorners(TriggerConformance):
    image_shape = (3, 10, 12)

    def make(self) -> Trigger:
        return CornerPattern(corner="all")


class TestSinusoid(TriggerConformance):
    def make(self) -> Trigger:
        return Sinusoid(frequency=2)


class TestWarp(TriggerConformance):
    def make(self) -> Trigger:
        return Warp(strength=2.0)


class TestWarpOfColour(TriggerConformance):
    image_shape = (3, 12, 16)

    def make(self) -> Trigger:
        return Warp()


class TestNoisyWarp(TriggerConformance):
    def make(self) -> Trigger:
        return Warp(noise=True)


class TestBadNets(PoisonConformance):
    def make(self) -> Poison:
        return BadNets(trigger=SinglePixel(), target=0, source=2, count=3)


class TestBadNetsEverySource(PoisonConformance):
    def make(self) -> Poison:
        return BadNets(trigger=Blend(), target=0, fraction=0.4)


class TestBadNetsAllToAll(PoisonConformance):
    def make(self) -> Poison:
        return BadNets(trigger=SinglePixel(), all_to_all=True, count=7)


class TestBadNetsAppend(PoisonConformance):
    def make(self) -> Poison:
        return BadNets(trigger=TestRandomLocation().make(), target=1, count=5, append=True)


class TestStampedOnly(PoisonConformance):
    def make(self) -> Poison:
        return StampedOnly(trigger=Sinusoid(frequency=2), target=2, fraction=0.5)


class TestCleanLabel(CraftedPoisonConformance):
    def make(self) -> CraftedPoison:
        return CleanLabel(trigger=CornerPattern(), target=1, count=4, eps=0.1, steps=3)


class TestCleanLabelInL2(CraftedPoisonConformance):
    image_shape = (3, 12, 12)

    def make(self) -> CraftedPoison:
        trigger = CornerPattern(corner="all", amplitude=16 / 255)
        return CleanLabel(trigger=trigger, target=0, fraction=1.0, eps=1.5, norm=L2, steps=3)


class TestCleanLabelGAN(PoisonConformance):
    def make(self) -> Poison:
        gan = WGAN(self.image_shape, latent=4, width=0.1)
        return CleanLabelGAN(trigger=CornerPattern(), target=1, count=4, generator=gan, steps=3)


class TestAdversarialPoisons(CraftedPoisonConformance):
    def make(self) -> CraftedPoison:
        return AdversarialPoisons(steps=3, fraction=0.5)


class TestUntargetedAdversarialPoisons(CraftedPoisonConformance):
    def make(self) -> CraftedPoison:
        return AdversarialPoisons(steps=3, shift=None)


class TestFeatureCollision(CraftedPoisonConformance):
    append = False

    def make(self) -> CraftedPoison:
        image = torch.full(self.image_shape, 0.6)
        base = (int(striped_surrogate(self.image_shape).labels(image[None])) + 1) % 3
        return FeatureCollision(
            base=base, image=image, count=2, watermark=0.1, steps=10, append=self.append
        )


class TestFeatureCollisionAppended(TestFeatureCollision):
    append = True


class TestWaNet(PoisonConformance):
    def make(self) -> Poison:
        return WaNet(trigger=Warp(strength=2.0), target=0, count=4)


class TestWaNetAllToAll(PoisonConformance):
    def make(self) -> Poison:
        return WaNet(trigger=Warp(strength=2.0), all_to_all=True, count=4, cover=1.0)


@pytest.mark.parametrize(
    ("kind", "base"), [("triggers", TriggerConformance), ("poisons", PoisonConformance)]
)
def test_every_registered_component_has_a_suite(kind: str, base: type) -> None:
    suites = [one for one in globals().values() if isinstance(one, type) and issubclass(one, base)]
    made = {component.name_of(one().make()) for one in suites if one.__name__.startswith("Test")}
    assert made == set(component.TABLES[kind])
