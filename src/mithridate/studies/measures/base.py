"""What a measure is, and the settings that say which model a cell is about."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from mithridate.data import ImageSet
from mithridate.doubts import Doubt
from mithridate.errors import InputError
from mithridate.networks.storage import write_tensors
from mithridate.studies.engine.spec import Part
from mithridate.studies.engine.unit import Unit
from mithridate.studies.kinds.data import data_unit
from mithridate.studies.kinds.model import model_file_unit, model_unit
from mithridate.studies.kinds.poisoned import poisoned_unit

PICTURES, TABLE = "pictures.safetensors", "images.parquet"
"""Files of a measuring unit: arrays for the report, and per-image results."""


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _with_name(value: dict[str, Any]) -> dict[str, Any]:
    if "name" not in value:
        raise InputError("no name: give one beside its settings (mithridate list)")
    return value


MaybeNamed = Annotated[dict[str, Any], BeforeValidator(_named)]
"""A component as `Named`, but whoever reads the table says what follows without a name."""

Named = Annotated[MaybeNamed, AfterValidator(_with_name)]
"""A component: its name, or a table with its name and settings."""


class Training(Part):
    """Settings of `training.fit`; what is not given is that function's default.

    Attributes:
        harden: a hardener's name and settings, such as adversarial-training's.
    """

    epochs: int = Field(ge=1)
    optimizer: str | None = None
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    batch_size: int | None = None
    augment: str | None = None
    autocast: bool | None = None
    harden: MaybeNamed | None = None

    def given(self) -> dict[str, Any]:
        """The settings that were given."""
        return self.model_dump(exclude_none=True)


class Subject(Part):
    """Settings that say which model a cell is about.

    Attributes:
        data: as `load_data` names it.
        network, train: trained from scratch, unless `model` names a checkpoint.
        poison: poisons the training set; with `tune`, that of the fine-tuning only.
        tune: fine-tune the clean model, on poisoned data where there is a poison.
        seed: of the model and of the poison.
    """

    data: str
    network: Named | None = None
    train: Training | None = None
    poison: Named | None = None
    tune: Training | None = None
    model: str | None = None
    seed: int = Field(default=0, ge=0)
    device: str = "cpu"
    threads: int = 1

    @property
    def place(self) -> dict[str, Any]:
        """Where units compute; part of their keys."""
        return {"device": self.device, "threads": self.threads}

    @property
    def about(self) -> dict[str, Any]:
        """What every measuring unit's spec holds."""
        return {"seed": self.seed, **self.place}

    def data_unit(self) -> Unit:
        """The data set."""
        return data_unit(self.data)

    def clean_model(self, seed: int | None = None, stream: tuple[str, ...] = ()) -> Unit:
        """The model before any poison; another seed gives another clean model.

        Raises:
            InputError: no network, or no training.
        """
        if self.network is None or self.train is None:
            raise InputError("a cell needs network and train.epochs, or model: a checkpoint file")
        return model_unit(
            self.data_unit(),
            self.network,
            self.train.given(),
            seed=self.seed if seed is None else seed,
            stream=stream,
            place=self.place,
        )

    def poisoned(self) -> Unit | None:
        """The poisoned training set, where there is a poison."""
        if self.poison is None:
            return None
        return poisoned_unit(self.data_unit(), self.poison, seed=self.seed, stream=("poison",))

    def subject(self) -> Unit:
        """The model that the cell is about.

        Raises:
            InputError: neither a model file nor a network and its training.
        """
        if self.model is not None:
            network = None if self.network is None else str(self.network["name"])
            return model_file_unit(self.model, network=network, place=self.place)
        if self.tune is None and self.poison is None:
            return self.clean_model()
        clean = self.clean_model()
        assert self.network is not None
        assert self.train is not None
        further = self.tune is not None
        return model_unit(
            self.data_unit(),
            self.network,
            (self.tune or self.train).given(),
            seed=self.seed,
            stream=("tune",) if further else ("poisoned",),
            place=self.place,
            poisoned=self.poisoned(),
            parent=clean if further else None,
        )

    def inputs(self) -> dict[str, Unit]:
        """Model, data and, where there is one, the poisoned set."""
        found = {"model": self.subject(), "data": self.data_unit(), "poisoned": self.poisoned()}
        return {name: unit for name, unit in found.items() if unit is not None}


class Measure(ABC):
    """Turns the settings of a cell into the unit whose product is the cell's row.

    The product's values are {"values": ..., "doubts": ...}; beside them may lie arrays for the
    report (PICTURES) and a table of per-image results (TABLE).

    Attributes:
        settings: the keys that a cell may have.
        columns: value -> how it is called and read (`reports.study.schema.Column`).
        views: what the report shows where the study names no views of its own.
    """

    settings: ClassVar[type[Part]]
    columns: ClassVar[dict[str, dict[str, Any]]] = {}
    views: ClassVar[list[dict[str, Any]]] = []

    @abstractmethod
    def unit(self, settings: Any) -> Unit:
        """The measuring unit of a cell."""


def row(
    values: Mapping[str, Any], doubts: Sequence[Doubt], data: ImageSet | None = None
) -> dict[str, Any]:
    """The values of a measuring unit's product; `data` tells the names of the classes."""
    names = {} if data is None else {"class_names": list(data.class_names)}
    told = [{"id": doubt.id, "text": doubt.text} for doubt in doubts]
    return {"values": dict(values), "doubts": told, **names}


def write_pictures(folder: Path, arrays: Mapping[str, Tensor | None]) -> None:
    """Keep the arrays that there are, as float32."""
    there = {
        name: torch.as_tensor(array).detach().cpu().float()
        for name, array in arrays.items()
        if array is not None
    }
    if there:
        write_tensors(folder / PICTURES, there, {"kind": "pictures"})
