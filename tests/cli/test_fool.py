"""`mithridate fool` on the digits: what it prints, writes and returns."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

import mithridate as mi
from mithridate.cli.screen import Screen

GRADIENT = ("--method", "gradient", "--set", "steps=60")


def test_it_prints_a_row_per_class_and_what_it_took(call, models) -> None:
    done = call("fool", models / "clean.safetensors", *GRADIENT)
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].split() == ["class", "confidence"]
    assert "images asked" in done.out
    assert done.last.startswith("gradient: ")
    assert "of 10 classes at 99.9 % or more" in done.last


def test_the_record_is_what_a_reader_finds_again(call, models) -> None:
    path = models / "clean.safetensors"
    done = call("fool", path, *GRADIENT, "--out", "found", "--json", "--seed", 3)
    assert done.code == 0, done.err
    told, record = json.loads(done.out), json.loads(Path("found/fooling.json").read_text())
    assert told["confidence"] == record["confidence"]
    assert record["settings"]["steps"] == 60
    assert (record["seed"], record["method"], record["status"]) == (3, "gradient", "done")
    assert len(record["history"]) == len(record["evaluations"]) == record["rounds"]
    images = load_file("found/fooling.safetensors")["images"]
    again = mi.load(path).scores(images).diagonal().tolist()
    assert again == pytest.approx(record["confidence"], abs=1e-6)
    with Image.open("found/fooling.png") as picture:
        assert picture.height > 10 * 72


def test_the_same_seed_writes_the_same_pictures(call, models) -> None:
    for out in ("a", "b"):
        call("fool", models / "clean.safetensors", *GRADIENT, "--out", out)
    for name in ("fooling.png", "fooling.safetensors"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


@pytest.mark.parametrize("method", ["direct", "cppn"])
def test_evolution(call, models, method) -> None:
    pytest.importorskip("ribs")
    few = ("--set", "generations=2", "--set", "population=20", "--set", "confidence=none")
    done = call("fool", models / "clean.safetensors", "--method", method, *few, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["queries"] == 60


def test_ctrl_c_keeps_the_elites(call, models, monkeypatch) -> None:
    @contextmanager
    def stage(self, title):
        def told(done, total, what):
            if done == 2:
                raise KeyboardInterrupt

        yield told

    monkeypatch.setattr(Screen, "stage", stage)
    done = call("fool", models / "clean.safetensors", *GRADIENT, "--out", "cut")
    assert done.code == 130
    assert json.loads(Path("cut/fooling.json").read_text())["status"] == "interrupted"
    assert Path("cut/fooling.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "grad"), "no fooling named 'grad': did you mean 'gradient'?"),
        (("--set", "population=0"), "population must be at least 1"),
        (("--method", "gradient", "--set", "step=1"), "did you mean 'steps'"),
    ],
)
def test_mistakes_are_one_line(call, models, words, said) -> None:
    done = call("fool", models / "clean.safetensors", *words)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1
