"""Mithridate: how a classifier can be fooled, whether it was poisoned, and what really helps."""

__version__ = "0.1.0"
