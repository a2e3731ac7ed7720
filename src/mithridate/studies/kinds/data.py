"""A data set as a unit: named by what its files hold, loaded where it is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from mithridate.data import ImageSet, load_data
from mithridate.data.load import source_of
from mithridate.studies.engine.unit import Inputs, Kind, Progress, Unit


class Sets(NamedTuple):
    """A training and a test set."""

    train: ImageSet
    test: ImageSet


class DataKind(Kind):
    """Loads the sets of `load_data`; nothing is stored."""

    stored = False

    def make(
        self, spec: Mapping[str, Any], inputs: Inputs, folder: Path, tell: Progress
    ) -> dict[str, Any]:
        """Nothing to make."""
        return {}

    def open(
        self, folder: Path, values: Mapping[str, Any], spec: Mapping[str, Any], inputs: Inputs
    ) -> Sets:
        """The two sets."""
        return Sets(*load_data(str(spec["name"])))


def data_unit(name: str) -> Unit:
    """The unit of a data set, whose key changes with the bytes of its files.

    Raises:
        InputError, DataError: as `load_data`.

    >>> data_unit("digits").spec["name"]
    'digits'
    """
    return Unit("data", {"name": name, "source": _digest(name)})


@cache
def _digest(name: str) -> str:
    """sha256 over the files' names and bytes; the library's version for the embedded digits."""
    folder = source_of(name)
    if folder is None:
        return f"scikit-learn {version('scikit-learn')}"
    out = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            inner = hashlib.file_digest(file, "sha256").hexdigest()
        out.update(f"{path.relative_to(folder).as_posix()}:{inner};".encode())
    return out.hexdigest()
