"""Fooling images: unlike anything of a class, and the model is sure of them."""

from mithridate.fooling.ascent import GradientAscent
from mithridate.fooling.base import Elites, FoolingMethod
from mithridate.fooling.cppn import CPPN
from mithridate.fooling.direct import Direct
from mithridate.fooling.run import FoolingResult, run_fooling

__all__ = [
    "CPPN",
    "Direct",
    "Elites",
    "FoolingMethod",
    "FoolingResult",
    "GradientAscent",
    "run_fooling",
]
