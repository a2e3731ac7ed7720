"""Studies: a subject, what is measured of it, and the one runner behind every verb."""

from mithridate.studies.conduct import conduct
from mithridate.studies.presets import attack, audit, defend, demo

__all__ = ["attack", "audit", "conduct", "defend", "demo"]
