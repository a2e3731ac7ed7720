"""Poisons: triggers, and attacks on training data."""

from mithridate.poisons import triggers
from mithridate.poisons.adversarial import AdversarialPoisons
from mithridate.poisons.badnets import BadNets, poisoned_test
from mithridate.poisons.base import Box, Poison, Poisoned, Trigger, bounding_box
from mithridate.poisons.clean_label import CleanLabel, StampedOnly
from mithridate.poisons.clean_label_gan import CleanLabelGAN
from mithridate.poisons.crafted import CraftedPoison
from mithridate.poisons.feature_collision import FeatureCollision
from mithridate.poisons.targeted import retrain_last, targeted_success
from mithridate.poisons.triggers import patch_mask, patch_names
from mithridate.poisons.wanet import WaNet

__all__ = [
    "AdversarialPoisons",
    "BadNets",
    "Box",
    "CleanLabel",
    "CleanLabelGAN",
    "CraftedPoison",
    "FeatureCollision",
    "Poison",
    "Poisoned",
    "StampedOnly",
    "Trigger",
    "WaNet",
    "bounding_box",
    "patch_mask",
    "patch_names",
    "poisoned_test",
    "retrain_last",
    "targeted_success",
    "triggers",
]
