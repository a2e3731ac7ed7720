"""Our triggers and poisons pass the suites that we ship."""

from __future__ import annotations

import pytest
import torch

from mithridate import component
from mithridate.about import POISONS as POISON_FACTS
from mithridate.about import TRIGGERS as TRIGGER_FACTS
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
from mithridate.rng import rng
from mithridate.testing.poisons import (
    CraftedPoisonSuite,
    PoisonSuite,
    TriggerSuite,
    striped_set,
    striped_surrogate,
)


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


class TestBlendOfNoise(TriggerSuite):
    def make(self) -> Trigger:
        return Blend(noise=3, additive=False, alpha=0.2)


class TestCornerPattern(TriggerSuite):
    def make(self) -> Trigger:
        return CornerPattern(corner="top-left", amplitude=32 / 255)


class TestFourCorners(TriggerSuite):
    image_shape = (3, 10, 12)

    def make(self) -> Trigger:
        return CornerPattern(corner="all")


class TestSinusoid(TriggerSuite):
    def make(self) -> Trigger:
        return Sinusoid(frequency=2)


class TestWarp(TriggerSuite):
    def make(self) -> Trigger:
        return Warp(strength=2.0)


class TestWarpOfColour(TriggerSuite):
    image_shape = (3, 12, 16)

    def make(self) -> Trigger:
        return Warp()


class TestNoisyWarp(TriggerSuite):
    def make(self) -> Trigger:
        return Warp(noise=True)


TRIGGERS = (
    *(TestSinglePixel, TestPatch, TestInsertedImage, TestRandomLocation, TestMultiply),
    *(TestBlendOfNoise, TestCornerPattern, TestSinusoid, TestWarp),
)


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


class TestStampedOnly(PoisonSuite):
    def make(self) -> Poison:
        return StampedOnly(trigger=Sinusoid(frequency=2), target=2, fraction=0.5)


class TestCleanLabel(CraftedPoisonSuite):
    def make(self) -> CraftedPoison:
        return CleanLabel(trigger=CornerPattern(), target=1, count=4, eps=0.1, steps=3)


class TestCleanLabelInL2(CraftedPoisonSuite):
    image_shape = (3, 12, 12)

    def make(self) -> CraftedPoison:
        trigger = CornerPattern(corner="all", amplitude=16 / 255)
        return CleanLabel(trigger=trigger, target=0, fraction=1.0, eps=1.5, norm=L2, steps=3)


class TestCleanLabelGAN(PoisonSuite):
    def make(self) -> Poison:
        gan = WGAN(self.image_shape, latent=4, width=0.1)
        return CleanLabelGAN(trigger=CornerPattern(), target=1, count=4, generator=gan, steps=3)


class TestAdversarialPoisons(CraftedPoisonSuite):
    def make(self) -> CraftedPoison:
        return AdversarialPoisons(steps=3, fraction=0.5)


class TestUntargetedAdversarialPoisons(CraftedPoisonSuite):
    def make(self) -> CraftedPoison:
        return AdversarialPoisons(steps=3, shift=None)


class TestFeatureCollision(CraftedPoisonSuite):
    append = False

    def make(self) -> CraftedPoison:
        image = torch.full(self.image_shape, 0.6)
        base = (int(striped_surrogate(self.image_shape).labels(image[None])) + 1) % 3
        return FeatureCollision(
            base=base, image=image, count=2, watermark=0.1, steps=10, append=self.append
        )


class TestFeatureCollisionAppended(TestFeatureCollision):
    append = True


class TestWaNet(PoisonSuite):
    def make(self) -> Poison:
        return WaNet(trigger=Warp(strength=2.0), target=0, count=4)


class TestWaNetAllToAll(PoisonSuite):
    def make(self) -> Poison:
        return WaNet(trigger=Warp(strength=2.0), all_to_all=True, count=4, cover=1.0)


POISONS = (
    *(TestBadNets, TestStampedOnly, TestCleanLabel, TestCleanLabelGAN, TestAdversarialPoisons),
    *(TestFeatureCollision, TestWaNet),
)


@pytest.mark.parametrize("suite", TRIGGERS)
def test_every_trigger_all_to_all(suite: type[TriggerSuite]) -> None:
    data = striped_set(suite.image_shape)
    attack = BadNets(trigger=suite().make(), all_to_all=True, fraction=0.5)
    found = attack.poison(data, rng=rng(0))
    assert torch.equal(found.images.labels[found.indices], (found.original_labels + 1) % 3)
    changed = (found.images.raw(found.indices) != data.raw(found.indices)).flatten(1).any(1)
    assert bool(changed.all())


def test_every_registered_component_has_a_suite() -> None:
    made = {component.name_of(suite().make()) for suite in TRIGGERS}
    assert made == set(component.TABLES["triggers"])
    assert {component.name_of(suite().make()) for suite in POISONS} == set(
        component.TABLES["poisons"]
    )


@pytest.mark.parametrize("suite", POISONS)
def test_labels_change_where_the_table_says_so(suite: type[PoisonSuite]) -> None:
    poison, data = suite().make(), striped_set(suite.image_shape)
    model = striped_surrogate(suite.image_shape) if isinstance(poison, CraftedPoison) else None
    made = poison.poison(data, surrogate=model, rng=rng(0))
    told = POISON_FACTS[component.name_of(poison)]
    assert told.labels == ("changed" if bool(made.relabelled.any()) else "kept")
    assert (made.trigger is None) == told.trigger.startswith("none")


@pytest.mark.parametrize("suite", TRIGGERS)
def test_triggers_lie_where_the_table_says(suite: type[TriggerSuite]) -> None:
    trigger, shape = suite().make(), suite.image_shape
    place = TRIGGER_FACTS[component.name_of(trigger)].place
    assert (trigger.support(shape) is not None) == (place == "fixed")
    x = torch.full((4, *shape), 0.05)  # blank, so that a patch may lie anywhere
    changed = (trigger.stamp(x, rng=rng(0)) != x).any(1)
    if place == "random":
        assert len(changed.flatten(1).unique(dim=0)) > 1
