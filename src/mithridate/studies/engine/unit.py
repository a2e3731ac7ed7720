"""A unit of work: what it is, what it needs, and the key under which its product is kept."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mithridate import registry
from mithridate.studies.engine.versions import code_of

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""


class Needs(NamedTuple):
    """What a unit asks of the machine that makes it."""

    gpus: int = 0
    memory: int = 2**30


class Work(NamedTuple):
    """How much a unit will ask of a model, for the estimate; images, and bytes on the disk."""

    forwards: int = 0
    gradients: int = 0
    trained: int = 0
    disk: int = 4096


class Sizes(NamedTuple):
    """How large a data set is: images to train and to test with, classes."""

    train: int
    test: int
    classes: int


class Kind(ABC):
    """Makes the products of one sort of unit.

    Attributes:
        stored: False where making is as fast as reading (a data set on the disk).
        version: of the code, where it lies outside this package; raise it where results change.
    """

    stored: bool = True
    version: int = 0

    @abstractmethod
    def make(
        self, spec: Mapping[str, Any], inputs: Mapping[str, Any], folder: Path, tell: Progress
    ) -> dict[str, Any]:
        """Write the product's files into `folder`; returns its values, which are JSON.

        Args:
            inputs: name -> the opened product of each input, a list where there are several.
        """

    def open(
        self, folder: Path, values: Mapping[str, Any], spec: Mapping[str, Any], inputs: Inputs
    ) -> Any:
        """The product as other units get it; its values unless overridden.

        Args:
            folder: where `make` wrote; of no meaning where nothing is stored, as `values`.
            inputs: as in `make`, opened when asked for.
        """
        return dict(values)

    def code(self, spec: Mapping[str, Any]) -> tuple[str, ...]:
        """More modules whose code decides the product, such as the attack's that the spec names.

        The kind's own module, and all that these import, count by themselves.
        """
        return ()

    def needs(self, spec: Mapping[str, Any]) -> Needs:
        """What the machine must have."""
        return Needs(gpus=int(spec.get("device") == "cuda"))

    def work(self, unit: Unit, sizes: Sizes) -> Work:
        """How much making it is."""
        return Work()


Inputs = Mapping[str, Any]
"""Name -> opened product, or a list of them."""


@dataclass(frozen=True, eq=False)
class Unit:
    """One piece of work. Two units of the same key are the same work.

    Args:
        kind: registered name (`registry.TABLES["units"]`).
        spec: its own settings, as JSON. "threads" and "device" among them decide where it runs.
        inputs: name -> the unit, or the units, whose products it works on.

    >>> a, b = Unit("data", {"name": "digits"}), Unit("data", {"name": "digits"})
    >>> a.key == b.key, a == b, len(a.key)
    (True, True, 64)
    """

    kind: str
    spec: Mapping[str, Any]
    inputs: Mapping[str, Unit | tuple[Unit, ...]] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """sha256 of the spec, the inputs' keys and the versions of the code, hexadecimal."""
        return hashlib.sha256(canonical(self.about).encode()).hexdigest()

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the key is the hash of."""
        kind = kind_of(self.kind)
        inputs = {
            name: [u.key for u in given] if isinstance(given, tuple) else given.key
            for name, given in self.inputs.items()
        }
        own = type(kind).__module__.removeprefix("mithridate.")
        code = code_of((own, *kind.code(self.spec)))
        if kind.version:
            code = {**code, own: kind.version}
        return {"kind": self.kind, "spec": dict(self.spec), "inputs": inputs, "code": code}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unit) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def parents(self) -> Iterator[Unit]:
        """The units that it needs, in order."""
        for given in self.inputs.values():
            yield from given if isinstance(given, tuple) else (given,)


_KINDS: dict[str, Kind] = {}


def kind_of(name: str) -> Kind:
    """The kind of that name, made once.

    Raises:
        InputError: no such kind.
    """
    if name not in _KINDS:
        _KINDS[name] = registry.find("units", name)()
    return _KINDS[name]


def module_of(kind: str, name: str) -> tuple[str, ...]:
    """The module behind a registered component, for `Kind.code`.

    >>> module_of("attacks", "pgd")
    ('attacks.pgd',)
    """
    return (registry.find(kind, name).__module__.removeprefix("mithridate."),)


def canonical(value: Any) -> str:
    """JSON text that is the same for equal values.

    >>> canonical({"b": 1, "a": (0.5, None)})
    '{"a":[0.5,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
