"""Transforms: change the input before the model sees it."""

from mithridate.defenses.transform.base import LearnedTransform, Transform
from mithridate.defenses.transform.bit_depth import BitDepth
from mithridate.defenses.transform.defense_gan import DefenseGAN
from mithridate.defenses.transform.jpeg import JPEG
from mithridate.defenses.transform.low_pass import LowPass
from mithridate.defenses.transform.magnet import MagNet
from mithridate.defenses.transform.pca import PCA
from mithridate.defenses.transform.resize_and_pad import ResizeAndPad
from mithridate.defenses.transform.soft_threshold import SoftThreshold
from mithridate.defenses.transform.spatial_smoothing import SpatialSmoothing
from mithridate.defenses.transform.total_variation import TotalVariation

__all__ = [
    "JPEG",
    "PCA",
    "BitDepth",
    "DefenseGAN",
    "LearnedTransform",
    "LowPass",
    "MagNet",
    "ResizeAndPad",
    "SoftThreshold",
    "SpatialSmoothing",
    "TotalVariation",
    "Transform",
]
