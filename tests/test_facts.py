"""What the source says of a component is what importing it says: two ways to one truth."""

from __future__ import annotations

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from mithridate import component
from mithridate.component import About
from mithridate.errors import InputError
from mithridate.facts import facts, imported, source_file
from mithridate.norms import Norm

EVERY = [(kind, name) for kind, table in component.TABLES.items() for name in table]
WITH_PAPER = [(kind, name) for kind, name in EVERY if kind != "measures"]


def as_text(value: Any) -> Any:
    """An imported default as the source has it: a norm by name, an object as it is written."""
    if isinstance(value, Norm):
        return str(value)
    plain = isinstance(value, bool | int | float | str | list | tuple | dict | None)
    return value if plain or value is ... else repr(value)


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=lambda part: part)
def test_the_source_says_what_importing_says(kind, name, monkeypatch) -> None:
    cls = imported(kind, name)
    monkeypatch.setattr("mithridate.facts.imported", None)  # no way but the source
    read = facts(kind, name)
    assert read.fault == ""
    assert read.doc == cls.doc
    assert read.summary
    assert read.about == cls.about
    # in this order too: it is that of the table
    wanted = [(key, as_text(value)) for key, value in cls.settings.items()]
    assert list(read.settings.items()) == wanted


@pytest.mark.parametrize(("kind", "name"), WITH_PAPER, ids=lambda part: part)
def test_every_component_names_its_paper(kind, name) -> None:
    about = facts(kind, name).about
    assert about is not None
    assert re.match(r"none: \w|MITRE ATLAS|\w.* (19|20)\d\d", about.paper)
    assert all(re.fullmatch(r"AML\.[TM]\d{4}(\.\d{3})?", each) for each in about.atlas)
    assert all(re.fullmatch(r"\d{2,4}", each) for each in about.nist)


CONSTANTS = "HALF = 1 / 2\nTWICE = 2 * HALF\n"
BASE = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import ClassVar
from mithridate.component import About
from stranger.deep.constants import TWICE as DOUBLE

@dataclass(frozen=True, kw_only=True)
class Base:
    about: ClassVar[About] = About(paper="Me 2030", norms=("l2",), nist=("022",))
    must: float
    double: float = DOUBLE
    hidden: int = field(default=1, metadata={"text": False})
    later: int = field(default=1, init=False)

class Plain:
    no_field: int = 3

    def method(self): ...
"""
PLUGIN = '''
import dataclasses
import math
from stranger.base import Base as Root, Plain
from mithridate.norms import LINF, Norm

ROUND = {"a": -1}

@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    n: int = 4

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(Root, Plain):
    """Mine.

    More of it.
    """

    norm: Norm = LINF
    must: float = 3 * 4
    rest: dict = dataclasses.field(default_factory=lambda: ROUND)
    items: list = dataclasses.field(default_factory=list)
    held: Held = dataclasses.field(default_factory=Held)
    odd: float = math.inf

Built = dataclasses.make_dataclass("Built", [("eps", float)])

class Network:
    def __init__(self, image_shape, classes, depth=3, *, width: float = 1.0, **more): ...

class Deeper(Network):
    """Inherits its arguments."""
'''


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third party's package, known by its entry points alone."""
    package = tmp_path / "stranger"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "deep" / "__init__.py").touch()
    (package / "deep" / "constants.py").write_text(CONSTANTS)
    (package / "base.py").write_text(BASE)
    (package / "plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    names = ("Mine", "Built", "Deeper", "Nothing")
    points = [EntryPoint(n.lower(), f"stranger.plugin:{n}", "mithridate.attacks") for n in names]
    monkeypatch.setattr(component, "points", lambda kind: points if kind == "attacks" else [])


@pytest.mark.usefixtures("stranger")
def test_a_strangers_component_is_read_without_importing_it() -> None:
    mine = facts("attacks", "mine")
    assert (mine.summary, mine.doc) == ("Mine.", "Mine.\n\nMore of it.")
    assert mine.about == About(paper="Me 2030", norms=("l2",), nist=("022",))
    assert list(mine.settings.items()) == [
        ("must", 12),
        ("double", 1.0),
        ("norm", "linf"),
        ("rest", {"a": -1}),
        ("items", []),
        ("held", "Held(n=4)"),
        ("odd", "math.inf"),
    ]
    assert facts("attacks", "deeper").settings == {"depth": 3, "width": 1.0}
    assert "stranger" not in sys.modules


@pytest.mark.usefixtures("stranger")
def test_what_code_builds_is_imported_and_what_fails_is_said() -> None:
    for name in ("built", "nothing"):
        assert facts("attacks", name).summary == "cannot be imported: imported"
    Path(source_file("stranger")).write_text("")
    assert facts("attacks", "built").settings == {"eps": ...}
    assert "no attribute 'Nothing'" in facts("attacks", "nothing").fault
    for name in [each for each in sys.modules if each.partition(".")[0] == "stranger"]:
        del sys.modules[name]


def test_no_such_component() -> None:
    with pytest.raises(InputError, match="did you mean 'fgsm'"):
        facts("attacks", "fgsn")
