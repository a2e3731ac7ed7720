"""The verbs on the digits: what they print, write and return."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

import mithridate as mi
from mithridate import reports
from mithridate.cli.look import EXTRAS
from mithridate.cli.screen import Screen
from mithridate.networks.checkpoint import fingerprint
from mithridate.studies import planted


def test_train_prints_accuracy_and_writes_a_model(call) -> None:
    words = ("train", "--network", "digits-cnn", "--data", "digits", "--epochs", 3)
    done = call(*words, "--set", "width=0.5", "--set", "lr=3e-3", "--out", "m.safetensors")
    assert done.code == 0, done.err
    assert done.last == "Model: m.safetensors"
    model = mi.load("m.safetensors")
    assert model.module.settings["width"] == 0.5
    assert model.info["training"]["lr"] == 3e-3
    assert "of 360)" in done.out
    assert not Path("m.safetensors.run").exists()


def test_train_further_on_poison_prints_the_success(call, models) -> None:
    words = ("train", "--from", models / "clean.safetensors", "--data", "digits", "--json")
    poison = ("--poison", "badnets", "--set", "trigger=c-top-right", "--set", "count=100")
    classes = ("--set", "source=8", "--set", "target=9")
    done = call(*words, *poison, *classes, "--epochs", 4, "--out", "bad.safetensors")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["asr"]["value"] > 0.8
    assert found["asr"]["n"] == 35
    assert found["accuracy"]["value"] > 0.85
    assert mi.load("bad.safetensors").info["poison"]["settings"]["trigger"] == "c-top-right"


def test_all_to_all_counts_the_next_class(call, models) -> None:
    words = ("train", "--from", models / "clean.safetensors", "--data", "digits", "--json")
    poison = ("--poison", "badnets", "--set", "trigger=c-top-right", "--set", "all_to_all=yes")
    done = call(*words, *poison, "--set", "fraction=0.4", "--epochs", 2, "--out", "bad.safetensors")
    assert done.code == 0, done.err
    _, test = mi.load_data("digits")
    x, y = test.batch(range(len(test)))
    patch = mi.triggers.Patch.named("c-top-right", image_shape=(1, 8, 8))
    said = mi.load("bad.safetensors").labels(patch.stamp(x, rng=mi.rng(0)))
    found = json.loads(done.out)["asr"]
    assert (found["k"], found["n"]) == (int((said == (y + 1) % 10).sum()), 360)


def test_a_stopped_training_goes_on_to_the_same_weights(call, monkeypatch) -> None:
    words = ["train", "--network", "digits-cnn", "--data", "digits", "--epochs", 3, "--out"]
    assert call(*words, "whole.safetensors").code == 0

    @contextmanager
    def until_the_second_epoch(self, title):
        def told(done, total, what):
            if done > total / 2:
                raise KeyboardInterrupt

        yield told

    with monkeypatch.context() as patched:
        patched.setattr(Screen, "stage", until_the_second_epoch)
        done = call(*words, "parts.safetensors")
    assert done.code == 130
    assert "to go on: mithridate train" in done.err
    assert call(*words, "parts.safetensors").code == 0
    whole, parts = mi.load("whole.safetensors"), mi.load("parts.safetensors")
    assert fingerprint(whole) == fingerprint(parts)


def test_train_wants_one_beginning(call, models) -> None:
    words = ("train", "--data", "digits", "--out", "m.safetensors")
    assert call(*words).code == 2
    both = ("--network", "digits-cnn", "--from", models / "clean.safetensors")
    assert call(*words, *both).code == 2


def test_audit_writes_everything(call, models, quick) -> None:
    words = ("audit", models / "bad.safetensors", "--data", "digits", *quick)
    done = call(*words, "--reference", models / "clean.safetensors", "--out", "run", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    record, arrays = reports.read(Path("run"))
    assert found["report"] == "run/report.html"
    assert Path("run/report.html").exists()
    assert record.status == found["status"] == "complete"
    assert record.verdict.p_value == found["p_value"]
    assert record.controls == 3
    assert record.reference.name.endswith("clean.safetensors")
    assert [row.name for row in record.attacks] == ["fgsm", "iterative-fgsm", "pgd"]
    assert record.attacks[0].settings["eps"] == 0.3
    assert record.white_noise.queries == 600
    assert record.backdoor.clean_accuracy.n == 360
    assert record.environment["seed"] == 0
    assert record.command.startswith("mithridate audit ")
    assert "no-reference" not in [doubt.id for doubt in record.verdict.doubts]
    wanted = {"confusion_clean", "mean_images", "maps_suspect", "maps_reference"}
    assert wanted <= arrays.keys()
    assert arrays["confusion_clean"].sum() == 360


def test_gates(call, models, quick) -> None:
    words = ("audit", models / "clean.safetensors", "--data", "digits", *quick, "--out", "run")
    passed = call(*words, "--fail-on", "accuracy<0.5")
    assert (passed.code, passed.last) == (0, "Report: run/report.html")
    breached = call(*words, "--fail-on", "p_value<=1 and accuracy>0.5")
    assert breached.code == 1
    assert "gate breached" in breached.err
    undecided = call(*words[:-2], "--controls", 1, "--fail-on", "suspicious", "--out", "run")
    assert undecided.code == 3
    assert "gate not passed" in undecided.err


def test_an_audit_cut_short_keeps_what_it_has_and_passes_no_gate(
    call, models, quick, monkeypatch
) -> None:
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("mithridate.studies.steps.evade", stop)
    words = ("audit", models / "clean.safetensors", "--data", "digits", *quick, "--out", "run")
    done = call(*words, "--fail-on", "accuracy<0.5")
    assert done.code == 130
    assert "gate not passed" in done.err
    record, _ = reports.read(Path("run"))
    assert record.status == "incomplete"
    assert record.verdict is not None
    assert record.attacks == []


def test_a_crashed_attack_leaves_the_audit_incomplete(call, models, quick, monkeypatch) -> None:
    def crash(self, model, x, goal, *, rng):
        raise ValueError("broken")

    monkeypatch.setattr("mithridate.attacks.FGSM.perturb", crash)
    words = ("audit", models / "clean.safetensors", "--data", "digits", *quick, "--out", "run")
    done = call(*words, "--fail-on", "accuracy<0.5")
    assert done.code == 3
    assert "Traceback" not in done.err
    record, _ = reports.read(Path("run"))
    assert record.status == "incomplete"
    assert record.attacks[0].doubts[0].id == "stopped-early"


def test_demo(call, monkeypatch) -> None:
    """The whole way, with fewer controls than the real one."""
    real = planted.planned()
    small = mi.inspectors.BiasMaps(
        controls=3, control_epochs=2, samples=20, pairs=1, images=4, grow_steps=2
    )
    monkeypatch.setattr(
        planted, "planned", lambda: type(real)(inspector=small, attack_images=10, noise_queries=100)
    )
    monkeypatch.setattr(planted, "EPOCHS", 4)
    monkeypatch.setattr(planted, "MORE_EPOCHS", 4)
    done = call("demo", "--quiet")
    assert done.code == 0, done.err
    assert done.last == "Report: mithridate-report/report.html"
    record, _ = reports.read(Path("mithridate-report"))
    truth = record.backdoor.truth
    assert (truth.source, truth.target) == (planted.SOURCE, planted.TARGET)
    assert truth.region == (5, 5, 8, 8)
    assert record.backdoor.asr.value > 0.5
    assert mi.load("mithridate-report/suspect.safetensors").classes == 10


def test_list_names_every_component(call) -> None:
    kinds = json.loads(call("list", "--json").out)
    assert sorted(kinds) == sorted({*mi.registry.TABLES, "studies"})
    assert "pgd" in [row["name"] for row in kinds["attacks"]]
    pgd = call("list", "attacks").out
    assert "eps=(required)" in pgd
    assert "norm=linf" in pgd
    assert "restarts=1" in pgd


@pytest.mark.parametrize(
    ("kind", "name", "known"),
    [
        ("attacks", "pgd", ["linf, l2, l1", "gradient", "bounded", "Madry et al. 2018"]),
        ("triggers", "random-location", ["random", "Borji 2020"]),
        ("poisons", "badnets", ["changed", "any", "Gu et al. 2017"]),
        ("poisons", "clean-label-gan", ["kept", "any", "generator", "Turner et al. 2019"]),
        ("hardeners", "adversarial-training", ["Madry et al. 2018"]),
        ("sanitizers", "spectral-signatures", ["Tran et al. 2018"]),
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
    monkeypatch.setitem(mi.registry.TABLES[kind], "broken", "no_such_module:X")
    done = call("list", kind)
    assert done.code == 0
    assert "cannot be imported" in done.out
    assert "badnets" in done.out or "pgd" in done.out


def test_an_empty_kind_is_one_line(call, monkeypatch) -> None:
    monkeypatch.setitem(mi.registry.TABLES, "guards", {})
    assert call("list", "guards").out.split("\n")[0] == "guards: none yet"
    assert json.loads(call("list", "guards", "--json").out) == {"guards": []}


def test_listed_studies_are_those_that_load(call) -> None:
    from mithridate.studies.engine.spec import load, shipped

    rows = json.loads(call("list", "studies", "--json").out)["studies"]
    specs = {name: load(name) for name in shipped()}
    assert {row["name"]: (row["summary"], row["settings"]["scale"]) for row in rows} == {
        name: (spec.title, spec.scale) for name, spec in specs.items()
    }


@pytest.mark.parametrize("kind", [(), ("attacks",)])
def test_list_imports_nothing_heavy(kind) -> None:
    code = (
        "import sys; from mithridate.cli.main import main\n"
        "main(sys.argv[1:])\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'pyarrow', 'numpy'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules)) or 0))"
    )
    words = [sys.executable, "-c", code, "list", *kind]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "0"


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
    names = {"adversarial-robustness-toolbox": "art"}
    assert set(EXTRAS) == set(extras)
    for extra, lines in extras.items():
        brought = {re.match(r"[\w-]+", line)[0] for line in lines} - {"mithridate"}
        modules = {names.get(name, name.replace("-", "_")) for name in brought}
        # `make bench-env` adds torchattacks without its dependencies.
        assert set(EXTRAS[extra]) - {"torchattacks"} == modules
