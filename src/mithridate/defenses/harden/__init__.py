"""Hardeners: train a model that is harder to fool."""

from mithridate.defenses.harden.adversarial_training import AdversarialTraining
from mithridate.defenses.harden.base import Hardener

__all__ = ["AdversarialTraining", "Hardener"]
