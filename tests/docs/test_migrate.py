"""The page for users of other libraries: names exist, and the same job gives the same answer."""

from __future__ import annotations

import importlib
import re
import warnings
from pathlib import Path

import pytest
import torch

import mithridate as mi

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "migrate.md").read_text("utf-8")
SNIPPETS = {
    name.lower(): code
    for name, code in re.findall(r"\*\*(\w+)\*\*\n\n```python\n(.*?)```", TEXT, re.DOTALL)
}
TABLES = [
    [
        [re.findall(r"`([\w.]+)`", cell) for cell in line.strip("|").split("|")]
        for line in table.splitlines()[2:]
    ]
    for table in re.findall(r"(?:^\|.*\n)+", TEXT.partition("## Names")[2], re.MULTILINE)
]
"""The two tables of names; a cell is the names in it."""


def peer(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name, reason=f"{name} (make bench-env) is not installed")


@pytest.fixture(scope="module")
def trained() -> mi.Classifier:
    train, _ = mi.load_data("digits")
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    return mi.fit(network, train, epochs=6, rng=mi.rng(0))


@pytest.mark.parametrize("name", list(SNIPPETS))
def test_the_snippet_runs_and_leaves_what_ours_leaves(name: str, trained: mi.Classifier) -> None:
    if name != "mithridate":
        peer(name)
    _, test = mi.load_data("digits")
    x, y = test.batch(range(0, len(test), 5))
    left = {}
    for one in ("mithridate", name):
        names = {"net": trained.module.eval(), "x": x, "y": y, "torch": torch}
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            exec(SNIPPETS[one], names)
        left[one] = float(names["left"])
    clean = float((trained.labels(x) == y).float().mean())
    assert left["mithridate"] < clean - 0.3
    assert abs(left[name] - left["mithridate"]) < 0.1


def test_our_names_are_there() -> None:
    attacks, others = TABLES
    assert {name for row in attacks for name in row[0]} <= set(dir(mi.attacks))
    for ours, _ in others:
        _, kind, name = ours[0].split(".")
        assert hasattr(getattr(mi, kind), name)


@pytest.mark.parametrize(
    ("column", "place"), [(1, "art.attacks.evasion"), (2, "foolbox.attacks"), (3, "torchattacks")]
)
def test_their_names_are_there(column: int, place: str) -> None:
    peer(place.partition(".")[0])
    attacks, others = TABLES
    wanted = [(place, name) for row in attacks for name in row[column]]
    if column == 1:
        wanted += [
            (f"art.{cell[0].rpartition('.')[0]}", cell[0].rpartition(".")[2]) for _, cell in others
        ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [one for one in wanted if not hasattr(importlib.import_module(one[0]), one[1])] == []
