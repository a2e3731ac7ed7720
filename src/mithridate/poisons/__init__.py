"""Poisons: triggers, and attacks on training data."""

from mithridate.poisons import triggers
from mithridate.poisons.badnets import BadNets, poisoned_test
from mithridate.poisons.base import Box, Poison, Poisoned, Trigger, bounding_box
from mithridate.poisons.patches import patch_mask, patch_names

__all__ = [
    "BadNets",
    "Box",
    "Poison",
    "Poisoned",
    "Trigger",
    "bounding_box",
    "patch_mask",
    "patch_names",
    "poisoned_test",
    "triggers",
]
