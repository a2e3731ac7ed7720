"""`mithridate poison`: the set that it writes, its manifest, and what it refuses."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import mithridate as mi
from mithridate.cli.screen import Screen

BADNETS = (
    *("poison", "--data", "digits", "--poison", "badnets", "--seed", 5),
    *("--set", "trigger=c-top-right", "--set", "source=8", "--set", "target=9"),
)


def test_it_writes_what_the_library_makes(call) -> None:
    done = call(*BADNETS, "--set", "count=20", "--out", "set")
    assert done.code == 0, done.err
    assert "20 of 1437 training images poisoned, 20 of them relabelled" in done.out
    train, test = mi.load_data("digits")
    trigger = mi.triggers.Trigger.named("c-top-right")
    attack = mi.poisons.BadNets(trigger=trigger, source=8, target=9, count=20)
    made = attack.poison(train, rng=mi.rng.child(mi.rng(5), "poison"))
    again = mi.load_data("./set")
    assert again[0].fingerprint() == made.images.fingerprint()
    assert again[1].fingerprint() == test.fingerprint()


def test_the_manifest_tells_the_truth(call) -> None:
    done = call(*BADNETS, "--set", "count=20", "--out", "set", "--json")
    assert done.code == 0, done.err
    told = json.loads(Path("set/manifest.json").read_text())
    assert json.loads(done.out)["counts"] == told["counts"]
    assert told["counts"] == {
        "train": 1437,
        "test": 360,
        "poisoned": 20,
        "relabelled": 20,
        "added": 0,
    }
    train, clean = mi.load_data("./set")[0], mi.load_data("digits")[0]
    rows = torch.tensor(told["indices"])
    assert train.labels[rows].tolist() == told["labels_after"] == [9] * 20
    assert clean.labels[rows].tolist() == told["labels_before"] == [8] * 20
    others = torch.ones(len(train), dtype=torch.bool)
    others[rows] = False
    assert torch.equal(train.raw(others), clean.raw(others))
    for row, col in told["trigger"]["pixels"]:
        assert bool((train.raw(rows)[:, 0, row, col] == 255).all())
    assert told["poison"]["settings"]["count"] == "20"
    assert (told["seed"], told["target"], told["source"]) == (5, 9, 8)
    assert told["train_sha256"] == train.fingerprint()
    assert told["command"].startswith("mithridate poison --data digits")


def test_added_copies_are_counted(call) -> None:
    done = call(*BADNETS, "--set", "count=20", "--set", "append=yes", "--out", "set")
    assert done.code == 0, done.err
    told = json.loads(Path("set/manifest.json").read_text())
    assert told["counts"]["added"] == 20
    assert told["indices"] == list(range(1437, 1457))


def test_nothing_stays_after_ctrl_c(call, monkeypatch) -> None:
    @contextmanager
    def stage(self, title):
        def told(done, total, what):
            raise KeyboardInterrupt

        yield told

    monkeypatch.setattr(Screen, "stage", stage)
    done = call(*BADNETS, "--set", "count=20", "--out", "cut")
    assert done.code == 130
    assert not list(Path().glob("*cut*"))
    assert not list(Path().glob(".*.part"))


def test_a_full_folder_is_refused_before_the_work(call) -> None:
    Path("full").mkdir()
    Path("full/mine").write_text("")
    done = call(*BADNETS, "--set", "count=20", "--out", "full")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "full is not empty, and nothing is overwritten" in done.err
    assert [file.name for file in Path("full").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "how much to poison: give count or fraction"),
        (("--set", "count=0"), "count must be at least 1"),
        (("--set", "fraction=-1"), "fraction must be above 0"),
        (("--set", "fraction=2"), "fraction must be at most 1"),
        (("--set", "count=2", "--set", "lr=1"), "no setting named 'lr'"),
        (("--set", "count=9999"), "9999 images to poison, but only"),
        (("--set", "count=2", "--surrogate", "m"), "badnets needs no surrogate"),
    ],
)
def test_bad_input_is_one_line(call, words, said) -> None:
    done = call(*BADNETS, *words, "--out", "set")
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert said in done.err
    assert not Path("set").exists()


COLLISION = ("--poison", "feature-collision", "--set", "base=3", "--set", "steps=2")


def test_a_crafted_poison_needs_a_surrogate(call, models) -> None:
    words = ("--poison", "adversarial-poisons", "--set", "steps=2", "--out", "set")
    done = call("poison", "--data", "digits", *words)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "give --surrogate MODEL" in done.err
    surrogate = ("--surrogate", models / "clean.safetensors")
    done = call("poison", "--data", "digits", *words, *surrogate)
    assert done.code == 0, done.err
    manifest = json.loads(Path("set/manifest.json").read_text())
    assert manifest["counts"]["relabelled"] == 0
    assert len(manifest["surrogate"]["sha256"]) == 64


def test_a_poison_is_aimed_at_a_row_of_the_test_set(call, models) -> None:
    test = mi.load_data("digits")[1]
    row = int((test.labels != 3).nonzero()[0, 0])
    words = (*COLLISION, "--set", f"row={row}", "--surrogate", models / "clean.safetensors")
    done = call("poison", "--data", "digits", *words, "--out", "set")
    assert done.code == 0, done.err
    told = json.loads(Path("set/manifest.json").read_text())
    assert told["aim"] == test.raw([row])[0].tolist()
    assert told["counts"]["poisoned"] == 1


def test_training_crafts_against_the_surrogate(call, models) -> None:
    row = int((mi.load_data("digits")[1].labels != 3).nonzero()[0, 0])
    words = ("train", "--data", "digits", "--network", "digits-cnn", "--epochs", 1)
    crafted = (*words, *COLLISION, "--set", f"row={row}", "--out", "m.safetensors")
    done = call(*crafted)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "give --surrogate MODEL" in done.err
    done = call(*crafted, "--surrogate", models / "clean.safetensors")
    assert done.code == 0, done.err
    told = mi.load("m.safetensors").info["poison"]
    assert (told["name"], len(told["surrogate"])) == ("feature-collision", 64)
    done = call(*words, "--out", "n.safetensors", "--surrogate", models / "clean.safetensors")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "--surrogate is for a poison" in done.err
