"""Hardeners: train a model that is harder to fool."""

from mithridate.defenses.harden.adversarial_training import AdversarialTraining
from mithridate.defenses.harden.base import Hardener
from mithridate.defenses.harden.distillation import DefensiveDistillation
from mithridate.defenses.harden.free import FreeAdversarialTraining
from mithridate.defenses.harden.reject_fooling import RejectFooling
from mithridate.defenses.harden.single_step import NFGSM, FastAdversarialTraining
from mithridate.defenses.harden.trades import Trades

__all__ = [
    "NFGSM",
    "AdversarialTraining",
    "DefensiveDistillation",
    "FastAdversarialTraining",
    "FreeAdversarialTraining",
    "Hardener",
    "RejectFooling",
    "Trades",
]
