"""Small studies of the digits, and one store in which their units are made once."""

from __future__ import annotations

import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mithridate import component
from mithridate.studies.engine.entry import Entry
from mithridate.studies.engine.perform import maker_of, perform
from mithridate.studies.engine.spec import Spec, build
from mithridate.studies.engine.store import Store
from mithridate.studies.engine.unit import Unit

# Modules that this process and its workers can import, as a third party's.
sys.path.append(str(Path(__file__).parent / "engine" / "toys"))
import courses
import toy_chain

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


@pytest.fixture
def unit_of() -> Callable[..., Any]:
    """The measuring unit of a cell, from its settings as a study's file gives them."""
    common = {"data": "digits", "network": "digits-cnn", "train": {"epochs": 2}}

    def unit(measure: type[Any], **settings: Any) -> Any:
        made = measure()
        return made.unit(made.settings.model_validate({**common, **settings}))

    return unit


@pytest.fixture
def poison() -> dict[str, Any]:
    return {"name": "badnets", "trigger": "single-pixel", "source": 8, "target": 9, "count": 60}


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


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The toy links of the chain, under their names."""
    for kind, links in toy_chain.LINKS.items():
        paths = {name: f"toy_chain:{link.__name__}" for name, link in links.items()}
        monkeypatch.setitem(component.TABLES, kind, component.TABLES[kind] | paths)
    return toy_chain


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
