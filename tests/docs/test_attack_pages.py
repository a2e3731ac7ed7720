"""Every registered attack has a page of one shape, a picture, and a true line in the table."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from mithridate import component
from mithridate.studies.evasion import usual

FOLDER = Path(__file__).parents[2] / "docs" / "reference" / "attacks"
NAMES = sorted(component.TABLES["attacks"])
PARTS = ("Idea", "When to use it", "Cost", "Settings", "What differs", "Paper")
DASH = "–"


def page(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text("utf-8")


def about(name: str) -> tuple[str, ...]:
    """Norms, access, kind, paper, as the table has them."""
    known = component.ABOUT[name]
    norms = ", ".join(norm.upper() for norm in known.norms) or DASH
    return norms, ", ".join(known.access), known.kind, known.paper


def test_pages_and_pictures_are_those_of_the_registry() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.md")) == sorted([*NAMES, "index"])
    assert sorted(path.stem for path in (FOLDER / "img").glob("*")) == NAMES


def test_the_table_says_what_the_registry_says() -> None:
    found = {
        cells[0]: tuple(cells[1:])
        for line in page("index").splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 5
        and cells[0].startswith("[")
    }
    assert found == {f"[{name}]({name}.md)": about(name) for name in NAMES}
    listed = re.findall(r":hidden:\n\n(.*?)\n```", page("index"), re.S)[0].split()
    assert sorted(listed) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_every_part_and_is_short(name: str) -> None:
    text = page(name)
    assert [part for part in PARTS if f"**{part}" not in text] == []
    assert 25 <= len(text.splitlines()) <= 45
    assert f"](img/{name}.png)" in text
    module, _, attribute = component.TABLES["attacks"][name].partition(":")
    assert f"`API <{module}.{attribute}>`" in text
    norms, access, kind, _ = about(name)
    head = text.splitlines()[2]
    assert head.startswith(f"`{name}` · {'no norm' if norms == DASH else norms} · ")
    assert all(f"{each}s" in head for each in access.split(", "))
    assert f" · {kind} · " in head


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_a_page_are_fields(name: str) -> None:
    table = re.findall(r"^\|[-|]+\|\n(.*?)\n\n", page(name), re.M | re.S)[0]
    named = [
        setting
        for row in table.splitlines()
        for setting in re.findall("`(.*?)`", row.split("|")[1])
    ]
    known = component.settings(component.find("attacks", name))
    assert named
    assert set(named) <= set(known)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_of_a_page_makes_the_attack(name: str) -> None:
    line = re.findall(r"^\$ mithridate attack (.+)$", page(name), re.M)[0]
    words = shlex.split(line)
    assert words[words.index("--attack") + 1] == name
    given = [after for word, after in itertools.pairwise(words) if word == "--set"]
    usual(name, 1, dict(pair.split("=") for pair in given))


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_small(name: str) -> None:
    path = FOLDER / "img" / f"{name}.png"
    assert path.stat().st_size < 40_000
    with Image.open(path) as picture:
        width, height = picture.size
    assert height < width < 800
