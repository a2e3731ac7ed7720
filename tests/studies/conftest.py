"""Small studies of the digits, and one store in which their units are made once."""

from __future__ import annotations

import importlib.util
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mithridate.studies.engine.entry import Entry
from mithridate.studies.engine.perform import maker_of, perform
from mithridate.studies.engine.spec import Spec, build
from mithridate.studies.engine.store import Store
from mithridate.studies.engine.unit import Unit

HEAD = """
name = "small"
title = "Small"
[defaults]
data = "digits"
network = "digits-cnn"
train = { epochs = 2 }
[scales.small]
"""


@pytest.fixture
def study() -> Callable[..., Spec]:
    """A study of the digits with this TOML below its head."""

    def made(text: str, given: dict[str, Any] | None = None) -> Spec:
        return build(tomllib.loads(HEAD + text), given or {}, "small.toml")

    return made


class Lab:
    """Makes units, with all that they need, and opens them."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, Store(root)

    def make(self, unit: Unit) -> Entry:
        """The finished unit."""
        outcome = perform(unit, self.root)
        assert outcome.error is None, outcome.error
        return self.store.read(unit.key)

    def values(self, unit: Unit) -> dict[str, Any]:
        """What a measuring unit measured."""
        found: dict[str, Any] = self.make(unit).values["values"]
        return found

    def open(self, unit: Unit) -> Any:
        """The product, as other units get it."""
        return maker_of(self.root).opened(unit)

    def forget(self) -> None:
        """What was opened is opened anew."""
        maker_of(self.root).kept.clear()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """One store for all tests: models are trained once."""
    return Lab(tmp_path_factory.mktemp("lab"))


def _loaded(path: Path) -> ModuleType:
    """A file of helpers as a module: tests are no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


courses = _loaded(Path(__file__).parent / "engine" / "toys" / "courses.py")


@pytest.fixture(name="courses")
def _courses() -> ModuleType:
    """Helpers for runs that are disturbed."""
    return courses


@pytest.fixture(scope="session")
def nurseries():
    """Two, so that two runs can go on at once."""
    both = courses.Nursery(), courses.Nursery()
    yield both
    for one in both:
        one.close()


@pytest.fixture(scope="session")
def reference(nurseries, tmp_path_factory):
    """Records of a run that nothing disturbed, its units, and the seconds that it took."""
    place = tmp_path_factory.mktemp("reference")
    began = time.monotonic()
    run = nurseries[0].start(place / "a", place / "cache")
    assert run.end() == 0, run.stderr
    seconds = time.monotonic() - began
    return courses.records(place / "a"), set(courses.units(place / "cache")), seconds
