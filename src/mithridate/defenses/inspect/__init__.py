"""Inspectors: judge a model, from its weights or from its answers alone."""

from mithridate.defenses.inspect.base import Inspector, MapSet, Verdict
from mithridate.defenses.inspect.bias_maps import BiasMaps, CleanSide
from mithridate.defenses.inspect.controls import train_controls
from mithridate.defenses.inspect.maps import algorithm_one, algorithm_two, probes
from mithridate.defenses.inspect.null import predictive_p
from mithridate.defenses.inspect.white_noise import WhiteNoise

__all__ = [
    "BiasMaps",
    "CleanSide",
    "Inspector",
    "MapSet",
    "Verdict",
    "WhiteNoise",
    "algorithm_one",
    "algorithm_two",
    "predictive_p",
    "probes",
    "train_controls",
]
