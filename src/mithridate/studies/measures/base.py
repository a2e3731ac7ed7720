"""What a measure is, and what its row is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from mithridate.data import ImageSet
from mithridate.doubts import Doubt
from mithridate.networks.storage import write_tensors
from mithridate.studies.engine.spec import Part
from mithridate.studies.engine.unit import Unit

PICTURES, TABLE = "pictures.safetensors", "images.parquet"
"""Files of a measuring unit: arrays for the report, and per-image results."""


class Done(NamedTuple):
    """A finished cell: its id, settings, labels and values, and its table of images."""

    id: str
    settings: Mapping[str, Any]
    labels: Mapping[str, Any]
    values: Mapping[str, Any]
    table: pa.Table


class Measure(ABC):
    """Turns the settings of a cell into the unit whose product is the cell's row.

    Beside the row may lie arrays for the report (PICTURES) and a table of per-image results
    (TABLE).

    Attributes:
        settings: the keys that a cell may have.
        columns: value -> how it is called and read (`reports.schema.Column`).
        views: what the report shows where the study names no views of its own.
    """

    settings: ClassVar[type[Part]]
    columns: ClassVar[dict[str, dict[str, Any]]] = {}
    views: ClassVar[list[dict[str, Any]]] = []

    @abstractmethod
    def unit(self, settings: Any) -> Unit[Any]:
        """The measuring unit of a cell."""

    def compared(self, cells: Sequence[Done]) -> Mapping[str, Sequence[Doubt]]:
        """What finished cells make of each other's figures: cell -> doubts."""
        return {}


def row(
    values: Mapping[str, Any], doubts: Sequence[Doubt], data: ImageSet | None = None
) -> dict[str, Any]:
    """The values of a measuring unit's product; `data` tells the names of the classes."""
    names = {} if data is None else {"class_names": list(data.class_names)}
    listed = [{"id": doubt.id, "text": doubt.text} for doubt in doubts]
    return {"values": dict(values), "doubts": listed, **names}


def write_pictures(folder: Path, arrays: Mapping[str, Tensor | None]) -> None:
    """Keep the arrays that there are, as float32."""
    there = {
        name: torch.as_tensor(array).detach().cpu().float()
        for name, array in arrays.items()
        if array is not None
    }
    if there:
        write_tensors(folder / PICTURES, there, {"kind": "pictures"})
