"""Units of a third party: in a module that this process and its workers can import."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOYS = str(Path(__file__).parent / "toys")


@pytest.fixture
def toys(monkeypatch):
    """The module of the toy units."""
    monkeypatch.syspath_prepend(TOYS)
    import toy_units

    return toy_units
