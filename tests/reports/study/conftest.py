"""The made-up studies, as fixtures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


def load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def studies() -> ModuleType:
    """The module that makes studies."""
    return load("fake_study", HERE / "fake.py")


@pytest.fixture
def folder(studies: ModuleType, tmp_path: Path) -> Path:
    """A study with every kind of view."""
    return Path(studies.make(tmp_path / "study"))
