"""A stranger's package, named by its entry points alone, is everywhere that the house's own are."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mithridate as mi
from mithridate import component, facts, testing
from mithridate.cli.attack import chosen
from mithridate.cli.main import main

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
NAMES = {"attacks": "two-steps", "transforms": "few-greys", "inspectors": "mean-logits"}
Run = Callable[..., str]


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """The package as if pip had put it into a folder of sys.path."""
    sys.path.insert(0, str(folder))
    component.points.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        component.points.cache_clear()
        facts._module.cache_clear()
        sys.modules.pop("stranger", None)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the one file and its entry points, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(HERE / "stranger.py", folder)
    shutil.copytree(HERE / "stranger-1.0.dist-info", folder / "stranger-1.0.dist-info")
    with installed(folder):
        yield folder


@pytest.fixture(scope="module")
def model(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the digits, as a file."""
    path = tmp_path_factory.mktemp("model") / "clean.safetensors"
    train, _ = mi.load_data("digits")
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    mi.save(mi.fit(network, train, epochs=3, rng=mi.rng(1)), path)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(
    package: Path,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """A command line that succeeds: what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MITHRIDATE_CACHE", str(cache))

    def call(*words: object) -> str:
        capsys.readouterr()
        code = main([*map(str, words), "--quiet"])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return call


@pytest.mark.parametrize(("kind", "name"), NAMES.items())
def test_listed_with_what_its_class_says_and_not_imported_for_it(run: Run, kind, name) -> None:
    sys.modules.pop("stranger", None)
    listed = json.loads(run("list", kind, "--json"))[kind]
    assert [row["name"] for row in listed] == sorted([*component.TABLES[kind], name])
    row = next(row for row in listed if row["name"] == name)
    assert row["paper"].startswith("Stranger 203")
    assert row["summary"]
    assert "stranger" not in sys.modules


def test_listed_by_another_process_too(package: Path) -> None:
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "mithridate", "list", "transforms"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert "few-greys" in done.stdout
    assert "Stranger 2032" in done.stdout


def test_attack_defense_table_record_and_report(run: Run, model: Path) -> None:
    words = ["attack", model, "--data", "digits", "--attack", "two-steps,fgsm", "--samples", 60]
    words += ["--defense", "few-greys", "--set", "levels=3", "--set", "share=0.25"]
    result = json.loads(run(*words, "--out", "out", "--json"))
    own, ours = result["attacks"]
    assert (own["name"], ours["name"]) == ("two-steps", "fgsm")
    assert own["status"] == "done"
    assert own["settings"] == {"eps": 0.3, "norm": "linf", "share": 0.25}
    assert (own["norm"], own["access"], own["kind"]) == ("linf", ["gradient"], "bounded")
    assert own["queries"] >= own["gradients"] > 0
    study = json.loads(Path("out/study.json").read_text("utf-8"))
    assert study["models"][0]["architecture"] == "digits-cnn behind few-greys"
    page = Path("out/report.html").read_text("utf-8")
    assert page.count("two-steps") > 1
    assert "digits-cnn behind few-greys" in page


def test_all_attacks_include_it(package: Path) -> None:
    assert chosen(["all"]) == [*component.TABLES["attacks"], "two-steps"]


def test_audit_by_its_inspector(run: Run, model: Path) -> None:
    words = ["audit", model, "--data", "digits", "--inspector", "mean-logits", "--out", "out"]
    words += ["--controls", 3, "--set", "control_epochs=3", "--set", "noise_queries=0"]
    result = json.loads(run(*words, "--set", "attack_images=0", "--set", "images=50", "--json"))
    assert isinstance(result["suspicious"], bool)
    assert 0 < result["p_value"] <= 1
    page = Path("out/report.html").read_text("utf-8")
    assert "Largest shift of a mean logit" in page
    assert "mean-logits" in page


STUDY = """
name = "strange"
title = "Strange"
[defaults]
data = "digits"
model = "{model}"
samples = 40
[matrix.clean]
measure = "accuracy"
[matrix.evasion]
measure = "evasion"
axes = {{ attack = ["two-steps", "fgsm"], defense = [[], ["few-greys"]] }}
[matrix.verdict]
measure = "inspection"
set = {{ inspector = {{ name = "mean-logits", images = 50 }}, controls = 3, control_epochs = 1 }}
[scales.small]
"""


def test_a_study_makes_a_cell_of_each(run: Run, model: Path) -> None:
    Path("strange.toml").write_text(STUDY.format(model=model), encoding="utf-8")
    result = json.loads(run("run", "strange.toml", "--workers", 1, "--out", "out", "--json"))
    assert (result["cells"], result["failed"]) == (6, 0)
    lines = Path("out/cells.jsonl").read_text("utf-8").splitlines()
    cells = [json.loads(line) for line in lines]
    attacked = [cell["axes"]["defense"] for cell in cells if "two-steps" in cell["axes"].values()]
    assert attacked == ["none", "few-greys"]
    study = json.loads(Path("out/study.json").read_text("utf-8"))
    assert [one["name"] for one in study["models"]] == [str(model)]
    assert "two-steps" in Path("out/report.html").read_text("utf-8")


def test_its_version_is_part_of_the_key(package: Path, monkeypatch) -> None:
    choice = component.Choice("transforms", "few-greys")
    assert choice.versions() == {"FewGreys": 1}
    monkeypatch.setattr(component.find("transforms", "few-greys"), "version", 2)
    assert choice.versions() == {"FewGreys": 2}


def test_the_reference_has_a_section_for_each(package: Path) -> None:
    spec = importlib.util.spec_from_file_location("component_pages", DOCS / "component_pages.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    sections = {"attacks": "attacks/index", "transforms": "transforms", "inspectors": "inspectors"}
    for kind, name in NAMES.items():
        page = f"reference/{sections[kind]}"
        text = pages.fill(page, (DOCS / f"{page}.md").read_text("utf-8"))
        assert f"\n| [{name}](#{name}) | " in text
        assert f"# {name}\n" in text
        section = text.partition(f"# {name}\n")[2]
        assert "| paper | Stranger 203" in section
        known = facts.facts(kind, name)
        assert all(f"| `{key}` | " in section for key in known.settings)


@pytest.mark.usefixtures("package")
class TestAttack(testing.AttackConformance):
    def attack(self):
        return component.create("attacks", NAMES["attacks"], {"eps": 0.6})


@pytest.mark.usefixtures("package")
class TestTransform(testing.TransformConformance):
    def transform(self):
        return component.create("transforms", NAMES["transforms"])


@pytest.mark.usefixtures("package")
class TestInspector(testing.InspectorConformance):
    def make(self):
        return component.create("inspectors", NAMES["inspectors"], {"images": 50})
