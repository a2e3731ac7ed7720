"""A poisoned training set that is kept: crafted against a model, or resting on files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from mithridate.data import ImageSet
from mithridate.errors import InputError
from mithridate.networks.storage import read_tensors, sha256, write_tensors
from mithridate.poisons import Poison, Poisoned
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import Inputs, Kind, Needs, Progress, Sizes, Unit, Work
from mithridate.studies.kinds.poisoned import code_of_poison, poison_of

FILE = "poisoned.safetensors"
SHIPPED = "shipped:"
"""Before the name of a picture that comes with the studies, in place of a path."""
_FILES = re.compile(r"(?:^|[:,])(?:image|images)=([^,]+)")


class CraftedKind(Kind):
    """Poisons the training set of its input `data`, and keeps the images that changed.

    spec: `poison` (name, settings), `files` (path -> sha256), `seed` and `stream`. inputs:
    `data`, and `surrogate`, a classifier, where the poison needs one.
    """

    def make(
        self, spec: Mapping[str, Any], inputs: Inputs, folder: Path, tell: Progress
    ) -> dict[str, Any]:
        """Craft; keep pixels, labels and rows of what changed."""
        for path, known in spec["files"].items():
            if sha256(located(path)) != known:
                raise InputError(f"{path} changed while the study ran: run it again")
        random = rng(int(spec["seed"]))
        if spec["stream"]:
            random = child(random, *spec["stream"])
        train, test = inputs["data"]
        poison = self._poison(spec).aim(test).to(spec["device"])
        made = poison.poison(train, surrogate=inputs.get("surrogate"), rng=random)
        tensors = {
            "indices": made.indices,
            "images": made.images.raw(made.indices),
            "labels": made.images.labels[made.indices],
            "original_labels": made.original_labels,
        }
        if made.aim is not None:
            tensors["aim"] = made.aim
        write_tensors(folder / FILE, tensors, {"kind": "poisoned"})
        return {
            "images": len(made.images),
            "target": made.target,
            "source": made.source,
            "surrogate": made.surrogate,
            "name": made.images.name,
        }

    def open(
        self, folder: Path, values: Mapping[str, Any], spec: Mapping[str, Any], inputs: Inputs
    ) -> Poisoned:
        """The poisoned set."""
        train: ImageSet = inputs["data"].train
        found, _ = read_tensors(folder / FILE)
        added = int(values["images"]) - len(train)
        base = train
        if added:  # each of these rows is among the changed ones
            rows = torch.arange(len(train))
            base = train.subset(torch.cat([rows, rows.new_zeros(added)]))
        trigger = getattr(self._poison(spec), "trigger", None)
        return Poisoned(
            images=base.with_changes(
                found["indices"], found["images"], found["labels"], str(values["name"])
            ),
            indices=found["indices"],
            trigger=None if trigger is None else trigger.bind(train, values["target"]),
            target=values["target"],
            source=values["source"],
            original_labels=found["original_labels"],
            surrogate=values["surrogate"],
            aim=found.get("aim"),
        )

    def _poison(self, spec: Mapping[str, Any]) -> Poison:
        return poison_of(with_places(spec["poison"]))

    def code(self, spec: Mapping[str, Any]) -> tuple[str, ...]:
        """The poison's and the triggers'."""
        return code_of_poison(spec)

    def needs(self, spec: Mapping[str, Any]) -> Needs:
        """The data set, and its images as they are crafted."""
        return Needs(gpus=int(spec["device"] == "cuda"), memory=3 * 2**30)

    def work(self, unit: Unit, sizes: Sizes) -> Work:
        """The passes of a poison that says how many steps it takes, on the surrogate."""
        poison = unit.spec["poison"]
        made = poison_of(with_places(poison))
        every = sizes.train / (sizes.classes if getattr(made, "target", None) is not None else 1)
        share = getattr(made, "fraction", None)
        count = getattr(made, "count", None) or round(every * (1.0 if share is None else share))
        crafted = "surrogate" in unit.inputs
        passes = count * int(getattr(made, "steps", 0)) if crafted else 0
        return Work(gradients=passes, disk=count * 4000)


def is_crafted(poison: Mapping[str, Any]) -> bool:
    """Whether the poison that a table describes needs a surrogate.

    >>> is_crafted({"name": "badnets"}), is_crafted({"name": "clean-label"})
    (False, True)
    """
    from mithridate import component
    from mithridate.poisons.crafted import CraftedPoison

    return issubclass(component.find("poisons", str(poison["name"])), CraftedPoison)


def file_paths(poison: Mapping[str, Any]) -> list[str]:
    """The files that a poison's settings name: a generator, or pictures of its trigger.

    >>> file_paths({"name": "badnets", "trigger": "inserted-image:image=a.png,top=1"})
    ['a.png']
    """
    found = [str(poison[key]) for key in ("generator", "image") if poison.get(key) is not None]
    trigger = poison.get("trigger")
    if isinstance(trigger, str):
        found += _FILES.findall(trigger)
    return sorted(found)


def located(path: str) -> Path:
    """Where a file lies: as given, or among those that come with the studies.

    Raises:
        InputError: no such file.

    >>> located("shipped:flower.png").name
    'flower.png'
    """
    where = Path(path)
    if path.startswith(SHIPPED):
        where = _shipped() / path.removeprefix(SHIPPED)
    if not where.is_file():
        raise InputError(f"no file {where}")
    return where


def with_places(poison: Mapping[str, Any]) -> dict[str, Any]:
    """A poison's settings with the places of shipped files in them.

    >>> with_places({"name": "badnets", "trigger": "single-pixel"})["trigger"]
    'single-pixel'
    """
    place = f"{_shipped()}/"
    return {k: v.replace(SHIPPED, place) if isinstance(v, str) else v for k, v in poison.items()}


def _shipped() -> Path:
    return Path(str(files("mithridate.studies") / "shipped"))


def crafted_unit(
    data: Unit,
    poison: Mapping[str, Any],
    *,
    surrogate: Unit | None,
    seed: int,
    stream: tuple[str, ...] = (),
    place: Mapping[str, Any],
) -> Unit:
    """The unit of a poisoned set that is kept; the settings are checked now.

    Raises:
        InputError: an unknown setting, a file that is not there, a surrogate missing or unused.
    """
    paths = {path: sha256(located(path)) for path in file_paths(poison)}
    poison_of(with_places(poison))
    name = poison["name"]
    if is_crafted(poison) and surrogate is None:
        raise InputError(f"{name} is crafted against a model: give surrogate.train.epochs")
    if surrogate is not None and not is_crafted(poison):
        raise InputError(f"{name} needs no surrogate: leave surrogate out")
    spec = {"poison": dict(poison), "files": paths, "seed": seed, "stream": list(stream), **place}
    inputs = {"data": data} if surrogate is None else {"data": data, "surrogate": surrogate}
    return Unit("crafted", spec, inputs)
