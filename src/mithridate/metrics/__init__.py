"""Metrics: pure functions of predictions and images, each with its uncertainty."""

from mithridate.metrics.classification import accuracy, attack_success_rate, confusion
from mithridate.metrics.distances import Distances, distances
from mithridate.metrics.intervals import (
    Interval,
    Pairs,
    mcnemar,
    paired_difference,
    pairs,
    unpaired_difference,
    wilson,
)

__all__ = [
    "Distances",
    "Interval",
    "Pairs",
    "accuracy",
    "attack_success_rate",
    "confusion",
    "distances",
    "mcnemar",
    "paired_difference",
    "pairs",
    "unpaired_difference",
    "wilson",
]
