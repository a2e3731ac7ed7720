"""The tables of poisons and triggers say what `mithridate list` says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mithridate.about import POISONS, TRIGGERS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "poisons.md"


def rows(columns: int) -> Iterator[list[str]]:
    """The rows of the tables that are so wide, heads included."""
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == columns:
            yield cells


def test_the_table_of_poisons() -> None:
    found = {cells[0]: tuple(cells[1:]) for cells in rows(5) if cells[0].startswith("[")}
    told = {
        f"[{name}](#{name})": tuple(cell or "–" for cell in about)
        for name, about in POISONS.items()
    }
    assert found == told


def test_the_table_of_triggers() -> None:
    papers = {cells[0].split("`")[1]: cells[3] for cells in rows(4) if cells[0].startswith("`")}
    papers["random-location"] = papers.pop("random:")
    assert papers == {name: about.paper for name, about in TRIGGERS.items()}
