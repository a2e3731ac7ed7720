"""Trained models as units: from scratch or from a parent, on clean or poisoned data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.errors import InputError
from mithridate.networks.base import create
from mithridate.networks.checkpoint import load, save
from mithridate.networks.storage import sha256
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import (
    Inputs,
    Kind,
    Needs,
    Progress,
    Sizes,
    Unit,
    Work,
    module_of,
)
from mithridate.training import fit

FILE = "model.safetensors"


class ModelKind(Kind):
    """Trains a classifier.

    spec: `network` (name, settings), `train` (the settings of `fit`), `seed` and `stream`,
    which name its random numbers. inputs: `data`, `poisoned` where the set was poisoned,
    `parent` where training goes on from another model.
    """

    def make(
        self, spec: Mapping[str, Any], inputs: Inputs, folder: Path, tell: Progress
    ) -> dict[str, Any]:
        """Train, and keep the checkpoint."""
        sets = inputs["data"]
        train = inputs["poisoned"].images if "poisoned" in inputs else sets.train
        if "parent" in inputs:
            start: Any = inputs["parent"]
        else:
            network = dict(spec["network"])
            name = str(network.pop("name"))
            start = create(name, image_shape=train.image_shape, classes=train.classes, **network)
        random = rng(int(spec["seed"]))
        if spec["stream"]:
            random = child(random, *spec["stream"])
        settings = dict(spec["train"])
        hardener = hardener_of(settings.pop("harden", None))
        do = fit if hardener is None else hardener.train
        model = do(start, train, rng=random, device=spec["device"], progress=tell, **settings)
        save(model, folder / FILE)
        return {"loss": model.info["training"]["loss"]}

    def open(
        self, folder: Path, values: Mapping[str, Any], spec: Mapping[str, Any], inputs: Inputs
    ) -> Classifier:
        """The classifier, on the device that the unit names."""
        return load(folder / FILE, device=str(spec["device"]))

    def code(self, spec: Mapping[str, Any]) -> tuple[str, ...]:
        """The network's, and the hardener's."""
        hardener = spec["train"].get("harden")
        return (
            *module_of("networks", str(spec["network"]["name"])),
            *(module_of("hardeners", str(hardener["name"])) if hardener else ()),
        )

    def needs(self, spec: Mapping[str, Any]) -> Needs:
        """A training set and its batches."""
        return Needs(gpus=int(spec["device"] == "cuda"), memory=2 * 2**30)

    def work(self, unit: Unit, sizes: Sizes) -> Work:
        """Every epoch sees every image, and a hardener attacks it in so many steps."""
        seen = int(unit.spec["train"]["epochs"]) * sizes.train
        hardener = hardener_of(unit.spec["train"].get("harden"))
        gradients = seen * int(getattr(hardener, "steps", 0))
        return Work(trained=seen, gradients=gradients, disk=2**21)


def hardener_of(settings: Mapping[str, Any] | None) -> Any:
    """The hardener that a table of settings describes, None where there is none.

    Its type is not imported: that would make it part of every model's code.

    Raises:
        InputError: no name or an unknown one, an unknown setting, or a value out of range.

    >>> hardener_of({"name": "adversarial-training", "eps": "8/255"}).steps
    7
    """
    if settings is None:
        return None
    if "name" not in settings:
        known = ", ".join(component.names("hardeners"))
        raise InputError(f"harden names no hardener: give its name ({known}) beside the settings")
    values = {key: value for key, value in settings.items() if key != "name"}
    return component.create("hardeners", str(settings["name"]), values)


class ModelFileKind(Kind):
    """A model of the user's own: a checkpoint file, named by its bytes."""

    stored = False

    def make(
        self, spec: Mapping[str, Any], inputs: Inputs, folder: Path, tell: Progress
    ) -> dict[str, Any]:
        """Nothing to make."""
        return {}

    def open(
        self, folder: Path, values: Mapping[str, Any], spec: Mapping[str, Any], inputs: Inputs
    ) -> Classifier:
        """The classifier.

        Raises:
            InputError: the file is not the one that the study was planned with.
        """
        if sha256(spec["path"]) != spec["sha256"]:
            raise InputError(f"{spec['path']} changed while the study ran: run it again")
        return load(str(spec["path"]), device=str(spec["device"]), network=spec.get("network"))


def model_unit(
    data: Unit,
    network: Mapping[str, Any],
    train: Mapping[str, Any],
    *,
    seed: int,
    stream: tuple[str, ...] = (),
    place: Mapping[str, Any],
    poisoned: Unit | None = None,
    parent: Unit | None = None,
) -> Unit:
    """The unit of a model to be trained.

    Args:
        network: name and settings.
        train: settings of `fit`.
        seed, stream: its random numbers are those of the seed, or of a named child of it.
        place: `device` and `threads`.
    """
    inputs = {"data": data, "poisoned": poisoned, "parent": parent}
    component.find("networks", str(network["name"]))
    hardener_of(train.get("harden"))
    return Unit(
        "model",
        {
            "network": dict(network),
            "train": dict(train),
            "seed": seed,
            "stream": list(stream),
            **place,
        },
        {name: unit for name, unit in inputs.items() if unit is not None},
    )


def model_file_unit(path: str, *, network: str | None, place: Mapping[str, Any]) -> Unit:
    """The unit of a checkpoint file.

    Raises:
        CheckpointError: it cannot be read.
    """
    spec = {"path": str(Path(path).resolve()), "sha256": sha256(path), **place}
    return Unit("model-file", spec if network is None else {**spec, "network": network})
