"""Common corruptions: what images suffer that nobody means them to, at five severities."""

from mithridate.corruptions.base import Corruption, corrupt
from mithridate.corruptions.blur import DefocusBlur, GlassBlur, MotionBlur, ZoomBlur
from mithridate.corruptions.digital import Contrast, ElasticTransform, JPEGCompression, Pixelate
from mithridate.corruptions.noise import GaussianNoise, ImpulseNoise, ShotNoise
from mithridate.corruptions.weather import Brightness, Fog, Frost, Snow

__all__ = [
    "Brightness",
    "Contrast",
    "Corruption",
    "DefocusBlur",
    "ElasticTransform",
    "Fog",
    "Frost",
    "GaussianNoise",
    "GlassBlur",
    "ImpulseNoise",
    "JPEGCompression",
    "MotionBlur",
    "Pixelate",
    "ShotNoise",
    "Snow",
    "ZoomBlur",
    "corrupt",
]
