"""A measure that measures nothing, for the engine's own cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from mithridate.studies.engine.spec import Part
from mithridate.studies.engine.unit import Inputs, Kind, Progress, Unit
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

    def unit(self, settings: Settings) -> Unit:
        """One unit, without inputs."""
        return Unit("trivial", {"number": settings.number})


class TrivialKind(Kind):
    """Doubles a number."""

    version = 1

    def make(
        self, spec: Mapping[str, Any], inputs: Inputs, folder: Path, tell: Progress
    ) -> dict[str, Any]:
        """The double."""
        return row({"double": 2 * int(spec["number"])}, [])
