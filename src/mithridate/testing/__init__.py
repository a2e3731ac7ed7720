"""Conformance suites that plug-ins inherit, and models whose answers are known in closed form."""

from mithridate.testing.attacks import AttackConformance
from mithridate.testing.models import linear_model, linear_weights
from mithridate.testing.networks import NetworkConformance

__all__ = ["AttackConformance", "NetworkConformance", "linear_model", "linear_weights"]
