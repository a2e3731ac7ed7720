"""Sanitizers: filter training data by what a model makes of it."""

from mithridate.defenses.sanitize.activation_clustering import ActivationClustering
from mithridate.defenses.sanitize.base import ClassNote, Filtered, Sanitizer
from mithridate.defenses.sanitize.early_loss import EarlyLoss
from mithridate.defenses.sanitize.outliers import Outliers
from mithridate.defenses.sanitize.spectral_signatures import SpectralSignatures
from mithridate.defenses.sanitize.spectre import Spectre

__all__ = [
    "ActivationClustering",
    "ClassNote",
    "EarlyLoss",
    "Filtered",
    "Outliers",
    "Sanitizer",
    "SpectralSignatures",
    "Spectre",
]
