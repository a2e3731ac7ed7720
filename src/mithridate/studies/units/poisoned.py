"""A poisoned training set as a unit: stamped anew where that is fast, else kept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import torch

from mithridate.classifier import Classifier
from mithridate.component import Choice, find
from mithridate.cost import Sizes, Work
from mithridate.errors import InputError
from mithridate.networks.storage import read_tensors, sha256, write_tensors
from mithridate.poisons import Poison, Poisoned
from mithridate.poisons.base import Trigger
from mithridate.poisons.crafted import CraftedPoison
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.units.data import Data

FILE = "poisoned.safetensors"
SHIPPED = "shipped:"
"""Before the name of a picture that comes with the studies, in place of a path."""
_FILES = re.compile(r"(?:^|[:,])(?:image|images)=([^,]+)")


@dataclass(frozen=True, kw_only=True, eq=False)
class Stamped(Unit[Poisoned]):
    """A poisoned set that is not stored: stamping takes less time than reading."""

    kind: ClassVar = "poisoned"
    stored: ClassVar = False

    data: Data
    poison: Choice
    seed: int
    stream: tuple[str, ...] = ()

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> Poisoned:
        random = child(rng(self.seed), *self.stream) if self.stream else rng(self.seed)
        poison: Poison = self.poison.make()
        return poison.poison(get(self.data).train, rng=random)


@dataclass(frozen=True, kw_only=True, eq=False)
class Crafted(Unit[Poisoned]):
    """A poisoned set that is kept: crafted against a model, or resting on files.

    Attributes:
        files: path -> sha256.
    """

    kind: ClassVar = "crafted"
    memory: ClassVar = 3 * 2**30

    data: Data
    poison: Choice
    files: Mapping[str, str] = field(default_factory=dict)
    surrogate: Unit[Classifier] | None = None
    seed: int
    stream: tuple[str, ...] = ()

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        """Craft; keep pixels, labels and rows of what changed."""
        for path, known in self.files.items():
            if sha256(located(path)) != known:
                raise InputError(f"{path} changed while the study ran: run it again")
        random = child(rng(self.seed), *self.stream) if self.stream else rng(self.seed)
        train, test = get(self.data)
        surrogate = None if self.surrogate is None else get(self.surrogate)
        poison = self._poison().aim(test).to(self.device)
        result = poison.poison(train, surrogate=surrogate, rng=random)
        tensors = {
            "indices": result.indices,
            "images": result.images.raw(result.indices),
            "labels": result.images.labels[result.indices],
            "original_labels": result.original_labels,
        }
        if result.aim is not None:
            tensors["aim"] = result.aim
        write_tensors(folder / FILE, tensors, {"kind": "poisoned"})
        return {
            "images": len(result.images),
            "target": result.target,
            "source": result.source,
            "surrogate": result.surrogate,
            "name": result.images.name,
        }

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> Poisoned:
        train = get(self.data).train
        tensors, _ = read_tensors(folder / FILE)
        added = int(values["images"]) - len(train)
        base = train
        if added:  # each of these rows is among the changed ones
            rows = torch.arange(len(train))
            base = train.subset(torch.cat([rows, rows.new_zeros(added)]))
        trigger = getattr(self._poison(), "trigger", None)
        return Poisoned(
            images=base.with_changes(
                tensors["indices"], tensors["images"], tensors["labels"], str(values["name"])
            ),
            indices=tensors["indices"],
            trigger=None if trigger is None else trigger.bind(train, values["target"]),
            target=values["target"],
            source=values["source"],
            original_labels=tensors["original_labels"],
            surrogate=values["surrogate"],
            aim=tensors.get("aim"),
        )

    def work(self, sizes: Sizes) -> Work:
        return self._poison().cost(sizes)

    def choices(self) -> Iterator[Choice]:
        yield with_places(self.poison)

    def _poison(self) -> Poison:
        poison: Poison = with_places(self.poison).make()
        return poison


def is_crafted(poison: Choice) -> bool:
    """Whether a poison needs a surrogate.

    >>> is_crafted(Choice("poisons", "badnets")), is_crafted(Choice("poisons", "clean-label"))
    (False, True)
    """
    return issubclass(find("poisons", poison.name), CraftedPoison)


def file_paths(poison: Choice) -> list[str]:
    """The files that a poison's settings name: a generator, or pictures of its trigger.

    >>> file_paths(Choice("poisons", "badnets", {"trigger": "inserted-image:image=a.png,top=1"}))
    ['a.png']
    """
    settings = poison.settings
    paths = [str(settings[key]) for key in ("generator", "image") if settings.get(key) is not None]
    trigger = settings.get("trigger")
    if isinstance(trigger, str):
        paths += _FILES.findall(trigger)
    return sorted(paths)


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


def with_places(poison: Choice) -> Choice:
    """A poison with the places of shipped files in its settings.

    >>> with_places(Choice("poisons", "badnets", {"trigger": "single-pixel"})).settings["trigger"]
    'single-pixel'
    """
    place = f"{_shipped()}/"
    settings = {
        key: value.replace(SHIPPED, place) if isinstance(value, str) else value
        for key, value in poison.settings.items()
    }
    return Choice(poison.kind, poison.name, settings)


def _shipped() -> Path:
    return Path(str(files("mithridate.studies") / "shipped"))


def poisoned_unit(
    data: Data,
    poison: Choice,
    *,
    surrogate: Unit[Classifier] | None = None,
    seed: int,
    stream: tuple[str, ...] = (),
    **place: Any,
) -> Unit[Poisoned]:
    """The unit of a poisoned set; the settings are checked now.

    Raises:
        InputError: an unknown setting, a file that is not there, a surrogate missing or unused.
    """
    paths = {path: sha256(located(path)) for path in file_paths(poison)}
    with_places(poison).make()
    if is_crafted(poison) and surrogate is None:
        raise InputError(
            f"{poison.name} is crafted against a model: give surrogate.train.epochs, in a measure "
            "that has a surrogate (poisoning)"
        )
    if surrogate is not None and not is_crafted(poison):
        raise InputError(f"{poison.name} needs no surrogate: leave surrogate out")
    if surrogate is None and not paths:
        return Stamped(data=data, poison=poison, seed=seed, stream=stream)
    return Crafted(
        data=data,
        poison=poison,
        files=paths,
        surrogate=surrogate,
        seed=seed,
        stream=stream,
        **place,
    )


def trigger_of(poisoned: Poisoned) -> Trigger:
    """The trigger of a backdoor poison."""
    assert poisoned.trigger is not None, "backdoor poisons have a trigger"
    return poisoned.trigger
