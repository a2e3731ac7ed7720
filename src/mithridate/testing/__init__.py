"""Conformance suites that plug-ins inherit, and models whose answers are known in closed form."""

from mithridate.testing.attacks import AttackConformance
from mithridate.testing.chain import (
    DetectorConformance,
    GuardConformance,
    RepairerConformance,
    TransformConformance,
)
from mithridate.testing.checks import check_facts
from mithridate.testing.corruptions import CorruptionConformance
from mithridate.testing.hardeners import HardenerConformance
from mithridate.testing.inspectors import InspectorConformance
from mithridate.testing.models import linear_model, linear_weights
from mithridate.testing.networks import NetworkConformance
from mithridate.testing.poisons import (
    CraftedPoisonConformance,
    PoisonConformance,
    TriggerConformance,
)
from mithridate.testing.sanitizers import SanitizerConformance

__all__ = [
    "AttackConformance",
    "CorruptionConformance",
    "CraftedPoisonConformance",
    "DetectorConformance",
    "GuardConformance",
    "HardenerConformance",
    "InspectorConformance",
    "NetworkConformance",
    "PoisonConformance",
    "RepairerConformance",
    "SanitizerConformance",
    "TransformConformance",
    "TriggerConformance",
    "check_facts",
    "linear_model",
    "linear_weights",
]
