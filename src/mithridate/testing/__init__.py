"""Conformance suites that plug-ins inherit, and models whose answers are known in closed form."""

from mithridate.testing.attacks import AttackConformance
from mithridate.testing.chain import (
    DetectorConformance,
    GuardConformance,
    RepairerConformance,
    TransformConformance,
)
from mithridate.testing.models import linear_model, linear_weights

__all__ = [
    "AttackConformance",
    "DetectorConformance",
    "GuardConformance",
    "RepairerConformance",
    "TransformConformance",
    "linear_model",
    "linear_weights",
]
