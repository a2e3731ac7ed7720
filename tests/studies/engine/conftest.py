"""Units of a third party: in a module that this process and its workers can import."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOYS = str(Path(__file__).parent / "toys")
if TOYS not in sys.path:
    sys.path.append(TOYS)


@pytest.fixture
def toys():
    """The module of the toy units."""
    import toy_units

    return toy_units
