"""`mithridate repair`: the mended file is the library's, and what it says is measured on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mithridate as mi
from mithridate.defenses.repair import drawn, fresh_trigger
from mithridate.networks.checkpoint import fingerprint
from mithridate.rng import child, rng
from mithridate.training import predict


def test_it_is_what_the_library_does(call, models) -> None:
    bad = models / "bad.safetensors"
    words = ("--repair", "ft-sam", "--set", "epochs=5", "--share", 0.1, "--seed", 3)
    done = call("repair", bad, "--data", "digits", *words, "--out", "m.safetensors", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    train, test = mi.load_data("digits")
    random = child(rng(3), "repair")
    images = drawn(train, 0.1, random)
    mended = mi.repairers.FTSAM(epochs=5).repair(mi.load(bad), images, rng=random)
    written = mi.load("m.safetensors")
    assert fingerprint(written) == fingerprint(mended)
    assert (result["images"], result["repair"]["name"]) == (144, "ft-sam")
    for model, row in ((mi.load(bad), result["before"]), (written, result["after"])):
        assert row["accuracy"]["k"] == int((predict(model, test) == test.labels).sum())
        fresh = fresh_trigger(model, images, test, rng=child(random, "fresh"))
        trigger = row["trigger"]
        assert trigger["class"] == test.class_names[fresh.target]
        assert trigger["pixels"] == pytest.approx(fresh.size)
        assert trigger["success"]["k"] == fresh.success.k


def test_it_says_both_in_a_table(call, models) -> None:
    words = ("--repair", "clp", "--out", "m.safetensors")
    done = call("repair", models / "clean.safetensors", "--data", "digits", *words)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["before", "after"]
    assert lines[3] == "Pruned: 0 of 48 channels."
    assert lines[4].startswith("clp: the smallest trigger took")
    assert lines[5] == "No weight was changed: a backdoor, if there was one, is still there."
    assert done.last == "Model: m.safetensors"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--repair", "unlearn"), "did you mean 'unlearning'"),
        (("--set", "findd=class"), "did you mean 'find'"),
        (("--set", "find=verdict"), "mithridate audit"),
        (("--share", 0), "--share is above 0"),
        (("--share", 0.01), "needs at least 2 of each class"),
        (("--set", "network.width=2"), "goes with --network"),
    ],
)
def test_bad_input_is_one_line(call, models, words, message) -> None:
    words = (models / "bad.safetensors", "--data", "digits", *words, "--out", "m.safetensors")
    done = call("repair", *words)
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert message in done.err
    assert not Path("m.safetensors").exists()


@pytest.mark.parametrize(
    ("out", "message"), [("m.pt", "name it m.safetensors"), (".", "is a folder")]
)
def test_a_name_that_misleads_is_refused(call, models, out, message) -> None:
    done = call("repair", models / "bad.safetensors", "--data", "digits", "--out", out)
    assert done.code == 2
    assert message in done.err
    assert not Path("m.pt").exists()


def test_the_suspect_is_not_written_over(call, models, tmp_path) -> None:
    suspect = tmp_path / "s.safetensors"
    suspect.write_bytes((models / "bad.safetensors").read_bytes())
    before = suspect.read_bytes()
    done = call("repair", suspect, "--data", "digits", "--repair", "clp", "--out", suspect)
    assert done.code == 2
    assert "is the model that is read" in done.err
    assert suspect.read_bytes() == before


def test_a_place_that_cannot_be_written_is_refused_before_the_work(call, models, tmp_path) -> None:
    (tmp_path / "file").touch()
    words = ("--data", "digits", "--repair", "clp", "--out", tmp_path / "file" / "m.safetensors")
    done = call("repair", models / "bad.safetensors", *words)
    assert (done.code, done.out) == (4, "")
    assert "cannot write" in done.err


def test_a_constant_model_cannot_be_mended(call, models) -> None:
    model = mi.load(models / "bad.safetensors")
    for weight in model.module.parameters():
        weight.data.zero_()
    mi.save(model, "flat.safetensors")
    done = call("repair", "flat.safetensors", "--data", "digits", "--out", "m.safetensors")
    assert done.code == 3
    assert "a constant model cannot be judged" in done.err
    assert not Path("m.safetensors").exists()
