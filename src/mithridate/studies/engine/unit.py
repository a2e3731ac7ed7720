"""A unit of work: what it is, what it needs, and the key under which its product is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from mithridate.component import Choice
from mithridate.cost import Sizes, Work

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""

P = TypeVar("P")
Q = TypeVar("Q")


class Open(Protocol):
    """Gives the product of a unit that another one works on."""

    def __call__(self, unit: Unit[Q], /) -> Q: ...


class Needs(NamedTuple):
    """What a unit asks of the machine that makes it."""

    gpus: int = 0
    memory: int = 2**30


@dataclass(frozen=True, kw_only=True, eq=False)
class Unit(Generic[P]):
    """One piece of work. Two units of the same key are the same work.

    A subclass's fields are its settings, and the units that it works on (alone or in a tuple).
    All of them are the key, with the versions of the unit's kind and of the components named;
    but for a field whose metadata say `key=False`, which another stands for.
    A unit that is not stored says how its product is opened; a stored one makes it, too.

    Attributes:
        kind: what it is called.
        version: raised where the results of this kind change.
        stored: False where making is as fast as reading (a data set on the disk).
        device, threads: where it computes.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    stored: ClassVar[bool] = True
    memory: ClassVar[int] = 2**30

    device: str = "cpu"
    threads: int = 1

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        """Write the product's files into `folder`; returns its values, which are JSON."""
        return {}

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> P:
        """The product as other units get it.

        Args:
            folder: where `make` wrote; of no meaning where nothing is stored, as `values`.
            get: opens the units that this one works on.
        """
        return dict(values)  # type: ignore[return-value]

    def shared(self) -> bool:
        """Whether several units may work on one opened product: use leaves it as it is."""
        return True

    def needs(self) -> Needs:
        """What the machine must have."""
        return Needs(gpus=int(self.device.startswith("cuda")), memory=self.memory)

    def work(self, sizes: Sizes) -> Work:
        """How much making it is."""
        return Work()

    def part(self, images: int) -> Unit[P]:
        """The same on so many images, for a plan to try; itself where it has no such number."""
        return self

    @cached_property
    def key(self) -> str:
        """sha256 of what the unit is, hexadecimal."""
        return hashlib.sha256(canonical(self.identity).encode()).hexdigest()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the key is the hash of."""
        spec: dict[str, Any] = {}
        inputs: dict[str, Any] = {}
        components: dict[str, int] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not field.metadata.get("key", True):
                continue
            if _is_input(value):
                inputs[field.name] = (
                    value.key if isinstance(value, Unit) else [u.key for u in value]
                )
            else:
                spec[field.name] = plain(value)
        for choice in self.choices():
            components |= choice.versions()
        return {
            "kind": self.kind,
            "version": self.version,
            "spec": spec,
            "inputs": inputs,
            "components": components,
        }

    def choices(self) -> Iterator[Choice]:
        """The components among the settings."""
        return _choices([getattr(self, f.name) for f in dataclasses.fields(self)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unit) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def parents(self) -> Iterator[Unit[Any]]:
        """The units that it needs, in order."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Unit):
                yield value
            elif isinstance(value, tuple):
                yield from (one for one in value if isinstance(one, Unit))


def _is_input(value: Any) -> bool:
    several = isinstance(value, tuple) and bool(value)
    return isinstance(value, Unit) or (several and all(isinstance(one, Unit) for one in value))


def _choices(value: Any) -> Iterator[Choice]:
    if isinstance(value, Choice):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _choices(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _choices(one)


def plain(value: Any) -> Any:
    """A setting as JSON holds it.

    >>> plain(Choice("attacks", "fgsm", {"eps": 0.1}))
    {'name': 'fgsm', 'eps': 0.1}
    """
    if isinstance(value, Choice):
        return {"name": value.name, **plain(value.settings)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, tuple | list) else value


def canonical(value: Any) -> str:
    """JSON text that is the same for equal values.

    >>> canonical({"b": 1, "a": (0.5, None)})
    '{"a":[0.5,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
