"""The frame of the command: help, usage errors, error lines, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mithridate

VERBS = (
    *("demo", "train", "poison", "sanitize", "generator", "attack", "fool", "audit", "run"),
    *("report", "list", "doctor"),
)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_the_common_options_on_one_screen(call, verb) -> None:
    done = call(verb, "--help")
    assert done.code == 0
    assert all(option in done.out for option in ("--seed", "--device", "--json", "--quiet"))
    assert len(done.out.splitlines()) <= 40


def test_without_a_verb_the_help_and_a_usage_code(call) -> None:
    done = call()
    assert done.code == 2
    assert all(verb in done.out for verb in VERBS)


@pytest.mark.parametrize(
    "words", [("--help",), ("attack", "--help"), ("list",), ("list", "attacks"), ("--version",)]
)
def test_what_is_asked_often_imports_nothing_heavy(words) -> None:
    """So that help answers in 0.3 s and `list` in 0.5 s, whatever else the machine is doing."""
    code = (
        "import sys; from mithridate.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'pyarrow', 'numpy', 'rich', 'PIL', 'jinja2'}\n"
        "sys.exit(code or str(sorted(heavy & set(sys.modules)) or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stderr.strip() == "0"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("trian",), "Did you mean 'train'"),
        (("audit", "--fial-on", "x"), "--fail-on"),
        (("audit",), "Missing"),
        (("audit", "m", "--data", "digits", "--seed", "x"), "--seed"),
        (("list", "--device", "gpu"), "--device"),
        (("list", "attack"), "did you mean 'attacks'"),
        (("report", "a", "b", "c"), "unexpected extra argument"),
    ],
)
def test_usage_errors_are_one_line(call, words, says) -> None:
    done = call(*words)
    assert done.code == 2
    assert done.err.startswith("mithridate: error: ")
    assert done.err.count("\n") == 1
    assert says in done.err
    assert not done.out


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (PermissionError(13, "Permission denied", "x.json"), 4, "x.json: Permission denied"),
        (OSError(28, "No space left on device"), 4, "No space left on device"),
        (RuntimeError("two\nlines"), 4, "RuntimeError: two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_goes_wrong_is_one_line(call, monkeypatch, error, code, says) -> None:
    def fail(folder: Path) -> Path:
        raise error

    monkeypatch.setattr("mithridate.reports.render", fail)
    done = call("report", "x")
    assert done.code == code
    assert says in done.err
    assert "Traceback" not in done.err


OLD = """
{"schema": 1, "kind": "attack", "title": "FGSM on m", "created": "2025-03-14T09:26:53Z",
 "command": "mithridate attack m", "status": "complete", "verdict": null, "reference": null,
 "model": {"name": "m", "sha256": "9f", "architecture": "cnn", "parameters": 9,
           "clean_accuracy": {"value": 0.5, "low": 0.1, "high": 0.9, "k": 2, "n": 4}},
 "data": {"name": "digits", "n": 4, "class_names": ["a", "b"], "image_shape": [1, 4, 4],
          "sha256": "3c"},
 "controls": 0, "ranking": [], "distances": [], "pairs": null, "backdoor": null,
 "white_noise": null, "cost": {"queries": 40, "gradients": 20, "seconds": 2.5},
 "aim": {"goal": "untargeted", "target": null, "images": 4, "wrong": 2, "left_out": 0},
 "settings": {"samples": 4}, "environment": {"seed": 0},
 "attacks": [{"name": "fgsm", "settings": {"eps": 0.1}, "status": "done", "norm": "linf",
   "access": ["gradient"], "kind": "bounded", "n": 4,
   "success": {"value": 0.5, "low": 0.1, "high": 0.9, "k": 1, "n": 2},
   "accuracy_left": {"value": 0.25, "low": 0.05, "high": 0.7, "k": 1, "n": 4},
   "mean_distance": 0.1, "median_distance": 0.1, "mean_l2": 1.5, "median_l2": 1.4,
   "mean_linf": 0.1, "queries": 40, "gradients": 20, "seconds": 2.5, "doubts": []}]}
"""
"""A `record.json` of version 0.1.0."""


def test_a_folder_of_an_earlier_version_is_drawn(call) -> None:
    Path("old").mkdir()
    Path("old/record.json").write_text(OLD)
    done = call("report", "old")
    assert (done.code, done.out, done.err) == (0, "Report: old/report.html\n", "")
    page = Path("old/report.html").read_text()
    assert "fgsm leaves" in page
    assert "25.0" in page
    assert {path.name for path in Path("old").iterdir()} == {"record.json", "report.html", "tables"}


def test_debug_shows_where(call, monkeypatch) -> None:
    monkeypatch.setenv("MITHRIDATE_DEBUG", "1")
    done = call("report", "nowhere")
    assert done.code == 2
    assert "Traceback" in done.err


def start(*words: str, cwd: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, in which Ctrl-C works as on a terminal."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from mithridate.cli.main import main; sys.exit(main())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_says_how_to_go_on(tmp_path, number, code) -> None:
    words = ("train", "--network", "digits-cnn", "--data", "digits", "--epochs", "5000")
    running = start(*words, "--out", "m.safetensors", cwd=tmp_path)
    kept = tmp_path / "m.safetensors.run"
    patience = time.monotonic() + 120
    while not kept.exists() and running.poll() is None and time.monotonic() < patience:
        time.sleep(0.05)
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert running.returncode == code, err
    assert "Traceback" not in err
    assert f"to go on: mithridate {' '.join(words)} --out m.safetensors" in err
    assert kept.exists()
    assert not (tmp_path / "m.safetensors").exists()
    assert out == ""


def test_a_closed_pipe_is_no_finding(tmp_path) -> None:
    """`mithridate list | head -1` must not look like a breached gate."""
    running = start("list", cwd=tmp_path)
    assert running.stdout is not None
    running.stdout.close()
    _, err = running.communicate(timeout=60)
    assert running.returncode not in (0, 1)
    assert "Traceback" not in err


def test_nothing_but_json_on_standard_output(call) -> None:
    assert isinstance(json.loads(call("list", "--json").out), dict)
    assert json.loads(call("doctor", "--json").out)["torch"]


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "mithridate", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"mithridate {mithridate.__version__}\n"
