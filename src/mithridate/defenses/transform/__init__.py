"""Transforms: change the input before the model sees it."""

from mithridate.defenses.transform.base import Transform
from mithridate.defenses.transform.spatial_smoothing import SpatialSmoothing

__all__ = ["SpatialSmoothing", "Transform"]
