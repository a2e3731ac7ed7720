"""A data set as a unit: named by what its files hold, loaded where it is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from mithridate.component import Choice, name_of
from mithridate.corruptions import Corruption, corrupt
from mithridate.data import ImageSet, load_data, some_of_each
from mithridate.data.decode import Fit
from mithridate.data.load import source_of
from mithridate.studies.engine.unit import Open, Unit
from mithridate.studies.units.held import HELD


class Sets(NamedTuple):
    """A training and a test set."""

    train: ImageSet
    test: ImageSet


@dataclass(frozen=True, kw_only=True, eq=False)
class Data(Unit[Sets]):
    """The sets of `load_data`, or such as a caller holds; nothing is stored.

    Attributes:
        per_class: training images to keep of each class, as `some_of_each`; None for all.
        trains: False where there are no training images: the test images stand in their place,
            for nobody to learn from.
    """

    kind: ClassVar = "data"
    stored: ClassVar = False

    name: str
    source: str
    resize: str | None = None
    mode: str | None = None
    per_class: tuple[int, ...] | None = None
    trains: bool = field(default=True, metadata={"key": False})

    @classmethod
    def named(
        cls,
        name: str,
        *,
        resize: int | str | None = None,
        mode: str | None = None,
        per_class: Sequence[int] | None = None,
    ) -> Data:
        """The unit of a data set, whose key changes with the bytes of its files.

        Raises:
            InputError, DataError: as `load_data` and `some_of_each`.

        >>> Data.named("digits").name
        'digits'
        """
        held = HELD.sets.get(name)
        some = None if per_class is None else tuple(per_class)
        if held is not None:  # the name holds the digest of what they are
            trains = held.train is not None
            return cls(name=name, source="in memory", per_class=some, trains=trains)
        words = Fit.of(resize, mode).words()
        unit = cls(
            name=name,
            source=_digest(name),
            resize=words.get("resize"),
            mode=words.get("mode"),
            per_class=some,
        )
        if some is not None:
            _ = unit.loaded  # counts that the data do not have are refused now
        return unit

    @property
    def loaded(self) -> Sets:
        """The sets, where a plan needs to know more of them than their key."""
        return self._read()

    def _read(self) -> Sets:
        held = HELD.sets.get(self.name)
        if held is not None:
            sets = Sets(held.train or held.test, held.test)
        else:
            sets = _loaded(self.name, self.source, self.resize, self.mode)
        if self.per_class is None:
            return sets
        return Sets(some_of_each(sets.train, self.per_class), sets.test)

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> Sets:
        return self.loaded


@dataclass(frozen=True, kw_only=True, eq=False)
class Corrupted(Data):
    """The same with corrupted test images; training images stay as they are.

    Attributes:
        corruption: with its severity.
        corruption_seed: of its random numbers.
    """

    kind: ClassVar = "corrupted-data"

    corruption: Choice
    corruption_seed: int = 0

    @classmethod
    def of(cls, data: Data, corruption: Corruption, seed: int) -> Corrupted:
        """The unit of a data set whose test images are corrupted.

        >>> from mithridate.corruptions import Fog
        >>> Corrupted.of(Data.named("digits"), Fog(), 0).loaded.test.name
        'digits/test fog 3'
        """
        choice = Choice("corruptions", name_of(corruption), {"severity": corruption.severity})
        own = {field.name: getattr(data, field.name) for field in fields(data)}
        return cls(**own, corruption=choice, corruption_seed=seed)

    @property
    def loaded(self) -> Sets:
        return Sets(self._read().train, _corrupted(self))

    def clean_test(self) -> ImageSet:
        """The test images before their corruption."""
        return self._read().test


@lru_cache(maxsize=2)
def _corrupted(unit: Corrupted) -> ImageSet:
    return corrupt(unit.clean_test(), unit.corruption.make(), rng=unit.corruption_seed)


@lru_cache(maxsize=2)
def _loaded(name: str, source: str, resize: str | None, mode: str | None) -> Sets:
    return Sets(*load_data(name, resize=resize, mode=mode))


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
