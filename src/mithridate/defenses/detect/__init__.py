"""Detectors: score inputs, and let the model reject those that look like an attack."""

from mithridate.defenses.detect.base import Detector, FittedDetector
from mithridate.defenses.detect.defense_gan_detector import DefenseGANDetector
from mithridate.defenses.detect.feature_squeezing import FeatureSqueezing
from mithridate.defenses.detect.input_detector import InputDetector
from mithridate.defenses.detect.magnet_detector import MagNetDetector
from mithridate.defenses.detect.mahalanobis import Mahalanobis

__all__ = [
    "DefenseGANDetector",
    "Detector",
    "FeatureSqueezing",
    "FittedDetector",
    "InputDetector",
    "MagNetDetector",
    "Mahalanobis",
]
