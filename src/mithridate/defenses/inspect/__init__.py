"""Inspectors: judge a model, from its weights or from its answers alone."""

from mithridate.defenses.inspect.base import Comparison, Evidence, Halves, Inspector, stamp
from mithridate.defenses.inspect.batchnorm_noise import BatchNormNoise
from mithridate.defenses.inspect.bias_maps import BiasMaps
from mithridate.defenses.inspect.change_scan import ChangeScan
from mithridate.defenses.inspect.controls import train_control, train_controls
from mithridate.defenses.inspect.ensemble import Ensemble
from mithridate.defenses.inspect.judge import LOOKED_AT, CleanSide, Verdict, calibrate, judge
from mithridate.defenses.inspect.maps import (
    MapSet,
    algorithm_one,
    algorithm_two,
    map_distances,
    probes,
)
from mithridate.defenses.inspect.maximum_margin import MaximumMargin
from mithridate.defenses.inspect.neural_cleanse import NeuralCleanse, anomaly
from mithridate.defenses.inspect.null import predictive_p
from mithridate.defenses.inspect.patch_scan import PatchScan
from mithridate.defenses.inspect.universal import UniversalPerturbation
from mithridate.defenses.inspect.white_noise import WhiteNoise

__all__ = [
    "LOOKED_AT",
    "BatchNormNoise",
    "BiasMaps",
    "ChangeScan",
    "CleanSide",
    "Comparison",
    "Ensemble",
    "Evidence",
    "Halves",
    "Inspector",
    "MapSet",
    "MaximumMargin",
    "NeuralCleanse",
    "PatchScan",
    "UniversalPerturbation",
    "Verdict",
    "WhiteNoise",
    "algorithm_one",
    "algorithm_two",
    "anomaly",
    "calibrate",
    "judge",
    "map_distances",
    "predictive_p",
    "probes",
    "stamp",
    "train_control",
    "train_controls",
]
