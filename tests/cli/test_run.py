"""`mithridate run`: the plan, the folder, the second run, mistakes, failures, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from mithridate.studies.engine import workers

STUDY = """
name = "few"
title = "A few cells"
[defaults]
data = "digits"
network = "digits-cnn"
train = { epochs = 1 }
[matrix.evasion]
measure = "evasion"
set = { samples = 20, attack = { name = "fgsm", eps = 0.1 } }
axes = { seed = [0, 1] }
[scales.small]
[[finding]]
text = "{k} of {n} are left."
matrix = "evasion"
value = "accuracy_left"
"""
FOLDER = {
    *("study.json", "cells.jsonl", "images.parquet", "pictures.safetensors"),
    *("timings.jsonl", "report.html", "tables"),
}


@pytest.fixture
def few(tmp_path):
    def write(text=STUDY, name="few.toml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    write()
    return write


@pytest.fixture
def cache(tmp_path):
    """Of its own for each test, for what is in it counts."""
    return tmp_path / "cache"


ONE = ("--workers", "1")


def test_the_plan_says_what_there_is_to_do_and_makes_nothing(call, few, cache, tmp_path):
    done = call("run", "few.toml", "--plan")
    assert done.code == 0
    lines = [line.split() for line in done.out.splitlines()]
    assert done.out.startswith("A few cells: 2 cells, scale small\n")
    for kind in ("model", "adversarial", "evasion"):
        assert [kind, "2", "0"] in lines
    told = {
        line.rpartition("  ")[0].strip(): line.rpartition("  ")[2] for line in done.out.splitlines()
    }
    assert told["images forward"] == "80"
    assert told["images differentiated"] == "40"
    assert told["images trained on"] == "2,874"
    assert told["time on one worker"].endswith("s")
    assert told["memory of a worker"] == "2.0 GiB"
    assert "KiB" in told["disk"] or "MiB" in told["disk"]
    assert not done.err
    assert {path.name for path in tmp_path.iterdir()} <= {"few.toml", "cache"}
    assert not list(cache.rglob("unit.json"))


def test_run_writes_the_folder_and_a_second_run_makes_nothing(call, few, cache, tmp_path):
    done = call("run", "few.toml", *ONE)
    assert done.code == 0, done.err
    folder = tmp_path / "mithridate-few"
    assert {path.name for path in folder.iterdir()} == FOLDER
    study = json.loads((folder / "study.json").read_text())
    assert study["status"] == "complete"
    assert study["command"] == "mithridate run few.toml --workers 1"
    assert study["finding"] in done.out
    assert "2 of 2 cells, 6 units made" in done.out
    assert done.last == "Report: mithridate-few/report.html"
    before = {p: p.stat().st_mtime_ns for p in cache.rglob("unit.json")}
    records = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}

    began = time.process_time()
    again = call("run", "few.toml", *ONE)
    assert time.process_time() - began < 5
    assert again.code == 0
    assert "0 units made" in again.out
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("unit.json")} == before
    for name in ("study.json", "cells.jsonl", "images.parquet", "pictures.safetensors"):
        assert (folder / name).read_bytes() == records[name]

    planned = call("run", "few.toml", "--plan", "--json")
    found = json.loads(planned.out)
    assert found["cells"] == 2
    assert found["units"] == {"model": [0, 2], "adversarial": [0, 2], "evasion": [0, 2]}
    assert (found["forwards"], found["gradients"], found["trained"]) == (0, 0, 0)
    assert (found["seconds"], found["disk"]) == (0, 0)

    wider = call("run", "few.toml", *ONE, "--json", "--set", "matrix.evasion.axes.seed=[0, 1, 2]")
    told = json.loads(wider.out)
    assert (told["cells"], told["done"], told["failed"], told["made"]) == (3, 3, 0, 3)
    assert told["report"] == "mithridate-few/report.html"


def test_settings_reach_the_study(call, few, tmp_path):
    done = call(
        *("run", "few.toml", *ONE, "--out", "here", "--seed", "4", "--json", "--quiet"),
        *("--set", "matrix.evasion.axes.seed=[7]", "--set", "title=Two words"),
    )
    assert done.code == 0, done.err
    assert not done.err
    study = json.loads((tmp_path / "here" / "study.json").read_text())
    assert study["title"] == "Two words"
    assert study["spec"]["seed"] == 4
    assert study["matrices"][0]["axes"] == {"seed": [7]}


def test_a_cell_that_fails_is_named_and_the_others_are_done(call, few, tmp_path):
    text = STUDY.replace("axes = { seed = [0, 1] }", 'axes = { goal = ["untargeted", "targeted"] }')
    few(text.replace("samples = 20", "samples = 20, target = 12"))
    done = call("run", "few.toml", *ONE, "--out", "here")
    assert done.code == 4
    assert "evasion/0001 failed: target 12 is not a class: they are 0 to 9" in done.err
    assert "evasion/0000" not in done.err
    assert "Traceback" not in done.err
    assert "1 of 2 cells" in done.out
    lines = (tmp_path / "here" / "cells.jsonl").read_text().splitlines()
    statuses = [json.loads(line)["status"] for line in lines]
    assert statuses[0] == "done"
    assert statuses[1].startswith("failed: target 12")
    assert (tmp_path / "here" / "report.html").exists()
    assert json.loads((tmp_path / "here" / "study.json").read_text())["status"] == "incomplete"


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_says_how_to_go_on(call, few, tmp_path, monkeypatch):
    made = []

    def perform(unit, root, *, tell=None):
        if len(made) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        made.append(unit.kind)
        return real(unit, root)

    real = workers.perform
    with monkeypatch.context() as patch:
        patch.setattr(workers, "perform", perform)
        done = call("run", "few.toml", *ONE, "--out", "my report")
    assert done.code == 130
    assert "to go on: mithridate run few.toml --workers 1 --out 'my report'" in done.err
    lines = (tmp_path / "my report" / "cells.jsonl").read_text().splitlines()
    assert "not run" in {json.loads(line)["status"] for line in lines}
    done = call("run", "few.toml", *ONE, "--out", "my report")
    assert done.code == 0
    assert "2 of 2 cells, 4 units made" in done.out


def test_damage_is_said(call, few, cache):
    assert call("run", "few.toml", *ONE).code == 0
    entry = next(
        p.parent for p in sorted(cache.rglob("images.parquet"))
        if json.loads((p.parent / "unit.json").read_text())["kind"] == "evasion"
    )  # fmt: skip
    (entry / "images.parquet").write_bytes(b"x")
    from mithridate.studies.engine import store

    store._verified.cache_clear()  # as another process would come to it
    done = call("run", "few.toml", *ONE)
    assert done.code == 0
    assert f"unit {entry.name[:12]} was damaged in the cache, and was made again" in done.err
    assert "2 of 2 cells, 1 unit made" in done.out


FINDING = '[[finding]]\ntext = "{q}"\nmatrix = "evasion"\nvalue = "v"\n'
COMPARE = '[[compare]]\ntitle = "t"\nmatrix = "x"\nvalue = "v"\nfirst = {}\nsecond = {}\n'
VIEW = '[[view]]\nkind = "table"\nmatrix = "evasoin"\n'


@pytest.mark.parametrize(
    ("words", "more", "says"),
    [
        (("borji1",), "", "did you mean 'borji-1'"),
        (("none.toml",), "", "none.toml"),
        (("few.toml", "--set", "seed"), "", "--set takes KEY=VALUE, got 'seed'"),
        (("few.toml", "--set", "=1"), "", "--set takes KEY=VALUE"),
        (("few.toml", "--set", "seed=1", "--set", "seed=2"), "", "given twice"),
        (("few.toml", "--set", "sede=1"), "", "did you mean 'seed'"),
        (("few.toml", "--set", "scale=huge"), "", "no scale named 'huge'"),
        (("few.toml", "--set", "matrix.evasion.set.attack.esp=1"), "", "did you mean 'eps'"),
        (("few.toml", "--workers", "0"), "", "--workers"),
        (("few.toml", "--workers", "2", "--ray", "local"), "", "--workers or --ray, not both"),
        (("few.toml", "--per-gpu", "2", "--ray", "local"), "", "leave it or --ray out"),
        (("few.toml", "--device", "gpu"), "", "--device"),
        (("few.toml",), VIEW, "evasoin"),
        (("few.toml",), VIEW.replace("evasoin", "evasion").replace("table", "tabel"), "view"),
        (("few.toml",), COMPARE, "'x'"),
        (("few.toml",), FINDING, "it may name"),
        (("few.toml",), "[[[", "is not TOML"),
        ((), "", "STUDY"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_nothing_is_made(call, few, cache, tmp_path, words, more, says):
    few(STUDY + more)
    done = call("run", *words)
    assert done.code == 2, done.err
    assert done.err.startswith("mithridate: error: ")
    assert done.err.count("\n") == 1
    assert says in done.err
    assert not done.out
    assert not list(cache.rglob("unit.json"))
    assert not list(tmp_path.rglob("study.json"))


def test_a_folder_that_cannot_be_written_is_said_before_the_work(call, few, cache, tmp_path):
    (tmp_path / "taken").write_text("")
    done = call("run", "few.toml", "--out", "taken")
    assert done.code == 4
    assert done.err.count("\n") == 1
    assert "taken cannot be written" in done.err
    assert not list(cache.rglob("unit.json"))
