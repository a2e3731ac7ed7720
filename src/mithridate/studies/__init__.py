"""Studies: several steps that answer one question, as records for the report."""

from mithridate.studies.audit import Audit, Finding
from mithridate.studies.evasion import Evasion, evade, usual_attacks
from mithridate.studies.parts import Planted, Subject

__all__ = ["Audit", "Evasion", "Finding", "Planted", "Subject", "evade", "usual_attacks"]
