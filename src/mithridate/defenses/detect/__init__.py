"""Detectors: score inputs, and let the model reject those that look like an attack."""

from mithridate.defenses.detect.base import Detector, FittedDetector

__all__ = ["Detector", "FittedDetector"]
