"""The made-up runs that the reports are drawn of."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The module that makes runs (tests/reports/fake_run.py)."""
    path = Path(__file__).parents[1] / "reports" / "fake_run.py"
    spec = importlib.util.spec_from_file_location("fake_run", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_run"] = module
    spec.loader.exec_module(module)
    return module
