"""`mithridate defend`: which defence really helps."""

from __future__ import annotations

import json

import pytest

QUICK = ("--attack", "fgsm,hopskipjump", "--set", "hopskipjump.budget=60")
SMALL = ("--samples", "30", "--slow-samples", "4", "--json")


@pytest.fixture
def model(models):
    return models / "clean.safetensors"


def test_defences_meet_attackers_who_ignore_and_who_know_them(call, model, tmp_path):
    out = tmp_path / "out"
    done = call(
        "defend", model, "--data", "digits", "--defense", "spatial-smoothing,query-guard",
        "--set", "query_guard.budget=100", *QUICK, *SMALL, "--out", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads(done.out)
    rows = {row["name"]: row for row in record["defenses"]}
    assert set(rows) == {"none", "spatial-smoothing", "query-guard"}
    assert rows["none"]["ignored"] is None
    assert rows["query-guard"]["known"]["attack"] == "hopskipjump"
    cells = {tuple(cell["axes"].values()): cell for cell in record["cells"]}
    smooth = ["spatial-smoothing", "fgsm"]
    known, ignored = (cells[(*smooth, who)]["values"] for who in ("knows", "ignores"))
    assert rows["spatial-smoothing"]["known"]["k"] == known["accuracy_left"]["k"]
    assert rows["spatial-smoothing"]["ignored"]["k"] == ignored["accuracy_left"]["k"]
    page = (out / "report.html").read_text()
    assert record["verdict"] in page
    assert "left, attacker knows it" in page


def test_a_hardened_model_is_attacked_itself_and_by_transfer(call, model, tmp_path):
    done = call(
        "defend", model, "--data", "digits", "--defense", "adversarial-training",
        "--set", "adversarial_training.steps=1", "--epochs", "1",
        "--attack", "fgsm", *SMALL, "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    cells = [c for c in json.loads(done.out)["cells"] if c["axes"].get("attacker") == "ignores"]
    assert [cell["axes"]["protection"] for cell in cells] == ["adversarial-training"]


@pytest.mark.parametrize(
    ("hardener", "words"),
    [
        ("reject-fooling", ("--set", "rounds=1", "--set", "images=10")),
        ("defensive-distillation", ("--set", "student=mnist-cnn", "--set", "width=0.1")),
    ],
)
def test_a_hardener_may_change_the_network(call, model, tmp_path, hardener, words):
    done = call(
        "defend", model, "--data", "digits", "--defense", hardener, *words, "--epochs", "1",
        "--attack", "fgsm", *SMALL, "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert {cell["status"] for cell in json.loads(done.out)["cells"]} == {"done"}


def test_of_attacks_without_a_budget_nothing_can_be_said(call, model, tmp_path):
    done = call(
        "defend", model, "--data", "digits", "--defense", "bit-depth",
        "--attack", "deepfool", *SMALL, "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 3
    assert json.loads(done.out)["verdict"] == "Nothing can be said"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--defense", "bit-depth", "--set", "bits=99"), "bits must be at most 8, got 99"),
        (("--defense", "spatial-smoothing", "--set", "window=31"), "window"),
        (("--defense", "defensive-distillation", "--set", "temperature=0"), "temperature must"),
        (("--defense", "smoothing"), "no defence named 'smoothing'"),
        (("--defense", ","), "no defence is named"),
        (("--defense", "spatial-smoothing", "--set", "windw=3"), "'window'"),
        (("--defense", "low-pass", "--attack", "pgdd"), "'pgd'"),
    ],
)
def test_bad_input_is_one_line(call, model, words, text):
    done = call("defend", model, "--data", "digits", *words)
    assert done.code == 2
    assert text in done.err
    assert done.err.count("\n") == 1
