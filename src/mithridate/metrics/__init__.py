"""Metrics: pure functions of predictions and images, each with its uncertainty."""

from mithridate.metrics.chance import chance_doubts
from mithridate.metrics.classification import accuracy, attack_success_rate, confusion
from mithridate.metrics.distances import Distances, distances
from mithridate.metrics.intervals import (
    Interval,
    Pairs,
    holm,
    mcnemar,
    paired_difference,
    pairs,
    pooled,
    unpaired_difference,
    wilson,
)
from mithridate.metrics.means import Mean, bootstrap_mean, mean_over_seeds
from mithridate.metrics.scores import Scores, scores

__all__ = [
    "Distances",
    "Interval",
    "Mean",
    "Pairs",
    "Scores",
    "accuracy",
    "attack_success_rate",
    "bootstrap_mean",
    "chance_doubts",
    "confusion",
    "distances",
    "holm",
    "mcnemar",
    "mean_over_seeds",
    "paired_difference",
    "pairs",
    "pooled",
    "scores",
    "unpaired_difference",
    "wilson",
]
