"""Repairers: mend a model that was tampered with."""

from mithridate.defenses.repair.base import Repairer

__all__ = ["Repairer"]
