"""A finished unit as it lies in the store: its record, and what proves that it is whole."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mithridate.errors import RunError

SCHEMA = 2
UNIT, TIMING = "unit.json", "timing.json"
FORMATS = (".safetensors", ".parquet", ".json")
"""Endings of a product's files: nothing that runs when it is read."""
GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)
"""What a system says where bytes are lost, and not merely out of reach."""


class Damaged(RunError):
    """A unit that is not what was written. Discard it and make it again.

    Attributes:
        key: of the unit.
        reason: what is wrong with it.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(
            f"unit {key[:12]} in the cache is damaged: {reason}; "
            "`mithridate cache verify --repair` removes it, and the next run makes it again"
        )
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type[Damaged], tuple[str, str]]:
        return Damaged, (self.key, self.reason)


class Part(NamedTuple):
    """A file of a unit."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Entry:
    """A finished unit.

    Attributes:
        folder: with its files.
        values: what `Kind.make` returned, as JSON gives it back.
        files: name -> hash and size.
    """

    key: str
    folder: Path
    kind: str
    version: int
    spec: dict[str, Any]
    inputs: dict[str, Any]
    components: dict[str, int]
    values: dict[str, Any]
    files: dict[str, Part]

    @cached_property
    def seconds(self) -> float | None:
        """How long it took to make; None where that was lost."""
        try:
            return float(json.loads((self.folder / TIMING).read_bytes())["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


class Kept(NamedTuple):
    """A unit in the list of all: its bytes on the disk, seconds, and when it was last used.

    `kind` is "?" and `spec` empty where it is damaged.
    """

    key: str
    kind: str
    spec: dict[str, Any]
    bytes: int
    seconds: float | None
    used: float


@contextmanager
def reading(key: str, name: str) -> Iterator[None]:
    """What the system says, as `Damaged` where bytes are lost, else as `RunError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in GONE:
            raise Damaged(key, f"{name}: {reason}") from None
        raise RunError(f"cannot read {name} of unit {key[:12]} in the cache: {reason}") from None


def signed(body: bytes) -> bytes:
    """A JSON object with the sha256 of all the rest at its end."""
    return body[:-1] + f',"sha256":"{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


def parsed(folder: Path, key: str, text: bytes) -> Entry:
    """A unit from its record, of which every byte is checked."""
    body = text[: -len(signed(b"}"))] + b"}"
    if text != signed(body):
        raise Damaged(key, f"{UNIT} is not what was written")
    record = json.loads(body)
    if record["key"] != key or record["schema"] != SCHEMA:
        raise Damaged(key, f"{UNIT} is another unit's, or of another schema")
    files = {name: Part(**part) for name, part in record["files"].items()}
    names = ("kind", "version", "spec", "inputs", "components", "values")
    return Entry(key, folder, **{name: record[name] for name in names}, files=files)
