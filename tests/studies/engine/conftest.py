"""A third party's kinds, as if installed: on the path, with entry points."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mithridate.studies.engine import unit

TOYS = Path(__file__).parent / "toys"
KINDS = ("Number", "Total", "Drawn", "Broken", "Large")


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> list[str]:
    """Folders that make `toys/toy_units.py` an installed distribution."""
    site = tmp_path_factory.mktemp("site")
    folder = site / "toy_units-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-units\nVersion: 1.0\n")
    lines = [f"toy-{name.lower()} = toy_units:{name}" for name in KINDS]
    (folder / "entry_points.txt").write_text("\n".join(["[mithridate.units]", *lines, ""]))
    return [str(TOYS), str(site)]


@pytest.fixture
def toys(monkeypatch, installed):
    """The module of the toy kinds, found as any plug-in is."""
    monkeypatch.setattr(sys, "path", [*installed, *sys.path])
    monkeypatch.setattr(unit, "_KINDS", {})
    import toy_units

    yield toy_units
    del sys.modules["toy_units"]
