"""The reference says of every component what its class says, and shows every attack."""

from __future__ import annotations

import doctest
import importlib.util
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from mithridate import component
from mithridate.facts import facts

DOCS = Path(__file__).parents[2] / "docs"
ATTACKS = DOCS / "reference" / "attacks"
NAMES = sorted(component.TABLES["attacks"])
PARTS = ("Idea", "When to use it", "Cost", "What differs", "Paper")
KINDS = [kind for kind in component.TABLES if kind != "measures"]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("component_pages", DOCS / "component_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference(pages) -> dict[str, str]:
    """Page -> text, filled in."""
    paths = (DOCS / "reference").rglob("*.md")
    texts = {p.relative_to(DOCS).with_suffix("").as_posix(): p.read_text("utf-8") for p in paths}
    return {page: pages.fill(page, text) for page, text in texts.items() if "/api/" not in page}


def test_examples(pages) -> None:
    results = doctest.testmod(pages)
    assert (results.failed, results.attempted > 2) == (0, True)


def test_remarks_are_on_what_there_is(pages) -> None:
    assert set(pages.places()) <= {(k, n) for k, table in component.TABLES.items() for n in table}


@pytest.mark.parametrize("kind", KINDS)
def test_every_component_is_described_once_and_listed(reference, kind) -> None:
    for name in component.TABLES[kind]:
        known = facts(kind, name)
        path = known.path.replace(":", ".")
        cards = [
            text for text in reference.values() if f"\n| class | {{py:class}}`{path}` |" in text
        ]
        assert len(cards) == 1
        assert f"\n| `{name}` |  |\n" in cards[0]
        assert known.about is not None
        assert f"| paper | {known.about.paper} |" in cards[0]
        assert all(f"| `{key}` | " in cards[0] for key in known.settings)
        assert sum(len(re.findall(rf"^\| \[{name}\]\(", t, re.M)) for t in reference.values()) >= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_usual_settings_make_the_attack(reference, name) -> None:
    """So that the command on its page runs as it stands."""
    for shape in ((1, 28, 28), (3, 32, 32)):
        component.create("attacks", name, component.find("attacks", name).usual(shape))
    text = reference[f"reference/attacks/{name}"]
    assert re.search(rf"^\$ mithridate attack .* --attack {name}$", text, re.M)


def test_a_third_partys_attack_has_a_section(pages, monkeypatch) -> None:
    point = EntryPoint("mine", "mithridate.attacks.pgd:PGD", "mithridate.attacks")
    monkeypatch.setattr(component, "points", lambda kind: [point] if kind == "attacks" else [])
    text = pages.fill("reference/attacks/index", (ATTACKS / "index.md").read_text("utf-8"))
    assert "\n| [mine](#mine) | LINF, L2, L1 | gradient | bounded |" in text
    assert "\n## mine\n\nSteepest descent" in text
    assert re.search(r"\n\| `restarts` \| `1` \| .*random starts to try, at least 1\. \|", text)
    assert "\n>>> PGD(" in text


def test_attack_pages_are_those_of_the_table() -> None:
    assert sorted(path.stem for path in ATTACKS.glob("*.md")) == sorted([*NAMES, "index"])
    assert sorted(path.stem for path in (ATTACKS / "img").glob("*")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_page_has_every_part_and_a_small_picture(name) -> None:
    text = (ATTACKS / f"{name}.md").read_text("utf-8")
    assert [part for part in PARTS if f"**{part}" not in text] == []
    assert f"<!-- component: attacks {name} -->\n" in text
    assert f"<!-- details: attacks {name} -->\n" in text
    assert f"](img/{name}.png)" in text
    path = ATTACKS / "img" / f"{name}.png"
    assert path.stat().st_size < 40_000
    with Image.open(path) as picture:
        width, height = picture.size
    assert height < width < 800
