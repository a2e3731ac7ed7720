"""Labelled images by name, by path, or from the hub."""

from mithridate.data.image_set import ImageSet, some_of_each, some_rows
from mithridate.data.load import load_data
from mithridate.data.store import MEMORY_SHARE, FileStore, Store, TensorStore

__all__ = [
    "MEMORY_SHARE",
    "FileStore",
    "ImageSet",
    "Store",
    "TensorStore",
    "load_data",
    "some_of_each",
    "some_rows",
]
