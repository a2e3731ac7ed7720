"""`mithridate sanitize`: what it drops of a poisoned set, what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import mithridate as mi
from mithridate.defenses.sanitize import SpectralSignatures
from mithridate.networks.checkpoint import fingerprint

WORDS = ("sanitize", "--data", "./bad")


@pytest.fixture(scope="module")
def bad(tmp_path_factory) -> Path:
    """The digits, a tenth of all other classes stamped and called 1; and a model of them."""
    from mithridate.data.export import export_set

    folder = tmp_path_factory.mktemp("sanitize")
    train, test = mi.load_data("digits")
    trigger = mi.triggers.Patch.named("checker-bottom-right", image_shape=(1, 8, 8))
    attack = mi.poisons.BadNets(trigger=trigger, target=1, fraction=0.1)
    poisoned = attack.poison(train, rng=mi.rng(0))
    export_set(folder / "bad", poisoned.images, test)
    (folder / "truth.json").write_text(json.dumps(poisoned.indices.tolist()))
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    data, _ = mi.load_data(str(folder / "bad"))
    model = mi.fit(network, data, epochs=8, batch_size=32, lr=2e-3, rng=mi.rng(0))
    mi.save(model, folder / "model.safetensors")
    return folder


@pytest.fixture
def sanitize(call, bad):
    """Runs the verb in an empty folder on that set."""

    def run(*words, data=bad / "bad"):
        return call("sanitize", "--data", data, *words)

    return run


def test_it_drops_the_poison_and_writes_the_rest(sanitize, bad) -> None:
    done = sanitize("--model", bad / "model.safetensors", "--out", "kept")
    assert done.code == 0, done.err
    truth = set(json.loads((bad / "truth.json").read_text()))
    manifest = json.loads(Path("kept/manifest.json").read_text())
    dropped = set(manifest["indices"])
    assert len(dropped & truth) >= 0.95 * len(truth)
    assert len(dropped - truth) <= 0.05 * (1437 - len(truth))

    train, test = mi.load_data(str(bad / "bad"))
    kept, again = mi.load_data("./kept")
    rest = torch.ones(1437, dtype=torch.bool)
    rest[manifest["indices"]] = False
    assert kept.fingerprint() == train.subset(rest).fingerprint() == manifest["train_sha256"]
    assert again.fingerprint() == test.fingerprint() == manifest["test_sha256"]
    assert manifest["source_data"]["train_sha256"] == train.fingerprint()
    count = len(dropped)
    assert manifest["counts"] == {
        "train": 1437,
        "kept": 1437 - count,
        "dropped": count,
        "test": 360,
    }
    assert done.last.startswith(f"{count} of 1437 training images dropped by spectral-signatures")


def test_the_manifest_is_what_the_library_says(sanitize, bad) -> None:
    words = ("--model", bad / "model.safetensors", "--set", "gap=6", "--seed", 3)
    done = sanitize(*words, "--out", "kept", "--json")
    assert done.code == 0, done.err
    manifest = json.loads(Path("kept/manifest.json").read_text())
    result = json.loads(done.out)
    assert result == manifest | {"out": "kept"}
    train, _ = mi.load_data(str(bad / "bad"))
    model = mi.load(bad / "model.safetensors")
    filtered = SpectralSignatures(gap=6).filter(model, train, rng=mi.rng(9))
    assert manifest["indices"] == filtered.dropped.tolist()
    assert manifest["labels"] == train.labels[filtered.dropped].tolist()
    assert manifest["scores"] == filtered.score[filtered.dropped].tolist()
    for row, note in zip(manifest["classes"], filtered.classes, strict=True):
        assert (row["name"], row["count"], row["dropped"], row["value"]) == (
            train.class_names[note.label],
            note.count,
            note.dropped,
            note.value,
        )
        assert (row["lowest_dropped"] is None) == (note.dropped == 0)
    suspect = manifest["classes"][1]
    assert suspect["suspicious"] is True
    assert suspect["lowest_dropped"] >= suspect["highest_kept"]
    assert manifest["doubts"] == []
    assert manifest["sanitizer"]["settings"]["gap"] == 6
    assert manifest["model"]["sha256"] == fingerprint(model)
    assert manifest["seed"] == 3
    assert set(manifest["files"]) == {path.name for path in Path("kept").glob("*.parquet")}


def test_without_a_model_one_is_trained_as_the_verb_train_does(sanitize, call, bad) -> None:
    """On the digits as they are: nothing is found, all is written, and that is said."""
    done = sanitize("--epochs", 2, "--out", "kept", data="digits")
    assert done.code == 0, done.err
    manifest = json.loads(Path("kept/manifest.json").read_text())
    words = ("--network", "digits-cnn", "--epochs", 2, "--out", "m.safetensors")
    assert call("train", "--data", "digits", *words).code == 0
    assert manifest["model"] == {
        "file": None,
        "network": "digits-cnn",
        "sha256": fingerprint(mi.load("m.safetensors")),
    }
    assert [doubt["id"] for doubt in manifest["doubts"]] == ["found-nothing"]
    assert "(found-nothing)" in done.out
    assert manifest["counts"]["dropped"] == 0
    assert mi.load_data("./kept")[0].fingerprint() == mi.load_data("digits")[0].fingerprint()


def test_a_model_of_another_set_is_doubted(sanitize, models) -> None:
    done = sanitize("--model", models / "clean.safetensors", "--out", "kept", "--json")
    assert done.code == 0, done.err
    assert "other-training-set" in [doubt["id"] for doubt in json.loads(done.out)["doubts"]]


def test_a_mask_that_keeps_nothing_writes_nothing(sanitize, bad) -> None:
    words = ("--sanitizer", "outliers", "--set", "share=1", "--set", "epochs=1")
    done = sanitize(*words, "--model", bad / "model.safetensors", "--out", "kept", "--json")
    assert done.code == 3
    assert "outliers would drop all 1437 images" in done.err
    result = json.loads(done.out)
    assert (result["out"], result["counts"]["kept"]) == (None, 0)
    assert "drops-everything" in [doubt["id"] for doubt in result["doubts"]]
    assert not Path("kept").exists()


def test_a_full_folder_is_refused_before_the_work(sanitize, monkeypatch) -> None:
    monkeypatch.setattr("mithridate.data.load_data", None)
    Path("full").mkdir()
    Path("full/mine").write_text("")
    done = sanitize("--out", "full")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "full is not empty, and nothing is overwritten" in done.err
    assert [file.name for file in Path("full").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sanitizer", "spectral-signature"), "did you mean 'spectral-signatures'"),
        (("--set", "gab=3"), "did you mean 'gap'"),
        (("--set", "gap=0"), "gap must be above 0"),
        (("--model", "m", "--epochs", 3), "with --model leave it out"),
        (("--set", "network.width=2"), "goes with --network"),
        (("--network", "digits"), "did you mean 'digits-cnn'"),
        (("--model", "none.safetensors"), "none.safetensors"),
    ],
)
def test_bad_input_is_one_line(sanitize, words, message) -> None:
    done = sanitize(*words, "--out", "kept")
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert message in done.err
    assert not Path("kept").exists()
