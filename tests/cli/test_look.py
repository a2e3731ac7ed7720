"""`mithridate list` and `mithridate doctor`: what there is."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from mithridate import component
from mithridate.cli.look import EXTRAS
from mithridate.studies.engine.spec import load, shipped


def test_list_names_every_component(call) -> None:
    kinds = json.loads(call("list", "--json").out)
    assert sorted(kinds) == sorted({*component.TABLES, "studies"})
    assert "pgd" in [row["name"] for row in kinds["attacks"]]
    pgd = call("list", "attacks").out
    assert all(part in pgd for part in ("eps=(required)", "norm=linf", "restarts=1"))


@pytest.mark.parametrize(
    ("kind", "name", "known"),
    [
        ("attacks", "pgd", ["linf, l2, l1", "gradient", "bounded", "Madry et al. 2018"]),
        ("triggers", "random-location", ["random", "Borji 2020"]),
        ("poisons", "badnets", ["changed", "any", "Gu et al. 2017"]),
        ("poisons", "clean-label-gan", ["kept", "any", "generator", "Turner et al. 2019"]),
        ("hardeners", "adversarial-training", ["Madry et al. 2018"]),
        ("sanitizers", "spectral-signatures", ["Tran et al. 2018"]),
        ("transforms", "spatial-smoothing", ["Xu et al. 2018"]),
        ("inspectors", "white-noise", ["Borji and Lin 2020"]),
    ],
)
def test_list_shows_what_is_known_of_a_component(call, kind, name, known) -> None:
    table = call("list", kind).out.split("\n\n")[0].splitlines()
    rows = json.loads(call("list", kind, "--json").out)[kind]
    assert all(row["paper"] for row in rows)
    columns = [key for key in rows[0] if key not in ("name", "summary", "settings")]
    assert table[0].split() == [kind, *columns]
    line = " ".join(next(row for row in table if row.startswith(f"{name} ")).split())
    values = next(row for row in rows if row["name"] == name)
    cells = (values[key] for key in columns)
    shown = [cell if isinstance(cell, str) else ", ".join(cell) for cell in cells]
    assert line == " ".join([name, *(cell or "–" for cell in shown)])
    assert all(any(cell.startswith(each) for cell in shown) for each in known)


@pytest.mark.parametrize("kind", ["attacks", "poisons"])
def test_list_survives_a_broken_plugin(call, monkeypatch, kind) -> None:
    monkeypatch.setitem(component.TABLES[kind], "broken", "no_such_module:X")
    done = call("list", kind)
    assert done.code == 0
    assert "cannot be imported" in done.out
    assert "badnets" in done.out or "pgd" in done.out


def test_an_empty_kind_is_one_line(call, monkeypatch) -> None:
    monkeypatch.setitem(component.TABLES, "guards", {})
    assert call("list", "guards").out.split("\n")[0] == "guards: none yet"
    assert json.loads(call("list", "guards", "--json").out) == {"guards": []}


def test_listed_studies_are_those_that_load(call) -> None:
    rows = json.loads(call("list", "studies", "--json").out)["studies"]
    specs = {name: load(name) for name in shipped()}
    assert {row["name"]: (row["summary"], row["settings"]["scale"]) for row in rows} == {
        name: (spec.title, spec.scale) for name, spec in specs.items()
    }


def test_doctor(call, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MITHRIDATE_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    done = call("doctor")
    assert done.code == 0
    assert f"{tmp_path}: mnist" in done.out
    assert "works here" in done.last
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    for extra, modules in EXTRAS.items():
        there = [module for module in modules if find_spec(module)]
        missing = ", ".join(module for module in modules if module not in there)
        said = "installed" if not missing else f"without {missing}" if there else "not installed"
        assert f"extra {extra} {said}" in lines


def test_doctor_knows_every_extra() -> None:
    told = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = told["project"]["optional-dependencies"]
    names = {
        "adversarial-robustness-toolbox": "art",
        "pytest-xdist": "xdist",
        "scikit-image": "skimage",
    }
    assert set(EXTRAS) == set(extras)
    for extra, lines in extras.items():
        brought = {re.match(r"[\w-]+", line)[0] for line in lines} - {"mithridate"}
        modules = {names.get(name, name.replace("-", "_")) for name in brought}
        # `make bench-env` adds torchattacks without its dependencies.
        assert set(EXTRAS[extra]) - {"torchattacks"} == modules
