"""A measure that measures nothing, for the engine's own cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mithridate.studies.engine.spec import Part
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.measures.base import Measure, row


class Settings(Part):
    """A number, and where it is doubled."""

    number: int
    threads: int = 1
    device: str = "cpu"


class Trivial(Measure):
    """Doubles a number."""

    settings = Settings
    columns: ClassVar = {"double": {"title": "Double"}}
    views: ClassVar = [{"kind": "table"}]

    def unit(self, settings: Settings) -> Unit[Any]:
        """One unit, without inputs."""
        return Doubled(number=settings.number)


@dataclass(frozen=True, kw_only=True, eq=False)
class Doubled(Unit[Mapping[str, Any]]):
    """Doubles a number."""

    kind: ClassVar = "trivial"

    number: int

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        return row({"double": 2 * self.number}, [])
