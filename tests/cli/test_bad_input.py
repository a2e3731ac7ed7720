"""What users get wrong: one clear line each, and the right exit code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import mithridate as mi
from mithridate.networks.digits_cnn import DigitsCNN
from mithridate.studies import presets
from mithridate.studies.soundness import check_model

SHAPE = (1, 8, 8)
NAMES = [str(i) for i in range(10)]


def says(done, code: int, *words: str) -> None:
    """The exit code, and one line of explanation that holds these words; doubts come before."""
    doubt = "mithridate: doubt: "
    lines = [line for line in done.err.splitlines() if not line.startswith(doubt)]
    assert done.code == code, done.err
    assert len(lines) == 1, done.err
    assert lines[0].startswith("mithridate: error: ")
    assert all(word in lines[0] for word in words), lines[0]
    assert len(lines[0]) < 400


def refused(action: Callable[[], object], *words: str, code: int = 2) -> None:
    """The same from Python."""
    with pytest.raises(mi.errors.MithridateError) as caught:
        action()
    text = str(caught.value)
    assert caught.value.exit_code == code
    assert "\n" not in text
    assert all(word in text for word in words), text


def untrained(name: str = "digits-cnn", classes: int = 10, **settings: object) -> mi.Classifier:
    net = mi.networks.create(name, image_shape=SHAPE, classes=classes, rng=mi.rng(0), **settings)
    return mi.Classifier(net, classes=classes, image_shape=SHAPE)


@pytest.fixture
def model(tmp_path) -> Path:
    mi.save(untrained(), tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def pictures(folder: Path, counts: dict[str, int], side: int = 8) -> Path:
    """Image folders with so many random pictures of each class, train and test alike."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, count in counts.items():
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (side, side), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder


# Names and settings -------------------------------------------------------------------------

TRAIN = ("train", "--network", "digits-cnn", "--data", "digits", "--out", "x.safetensors")
BADNETS = (*TRAIN, "--poison", "badnets")
STAMP = (*BADNETS, "--set", "trigger=c-top-right", "--set")
FGSM = ("attack", "{m}", "--data", "digits", "--attack", "fgsm")


@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (("audti", "m"), ("No such command",)),
        (("audit", "m", "--data", "digits", "--refrence", "x"), ("--reference",)),
        (("train", "--network", "borji-cn", "--data", "digits", "--out", "x"), ("borji-cnn",)),
        (("train", "--network", "digits-cnn", "--data", "digts", "--out", "x"), ("digits",)),
        (("audit", "{m}", "--data", "mnits"), ("mnist",)),
        (("audit", "{m}", "--data", "digits", "--set", "probes=noise"), ("probe",)),
        ((*BADNETS, "--set", "trigger=c-topright", "--set", "target=9"), ("c-top-right",)),
        ((*BADNETS, "--set", "target=9", "--set", "count=5"), ("trigger",)),
        ((*STAMP, "target=9"), ("count", "fraction")),
        ((*STAMP, "target=9", "--set", "source=9", "--set", "count=5"), ("both class 9",)),
        ((*STAMP, "target=12", "--set", "count=5"), ("0 to 9",)),
        ((*STAMP, "target=nine", "--set", "count=5"), ("no class named 'nine'",)),
        ((*STAMP, "target=9", "--set", "source=8", "--set", "count=5000"), ("lower count",)),
        ((*FGSM, "--set", "eps=-1"), ("eps", "-1")),
        ((*FGSM, "--set", "eps=much"), ("a number",)),
        ((*FGSM, "--set", "norm=l2"), ("--set eps", "l2")),
        ((*FGSM, "--set", "eps"), ("KEY=VALUE",)),
        (("audit", "{m}", "--data", "digits", "--device", "cuda"), ("--device cpu",)),
    ],
)
def test_names_and_settings(call, model, monkeypatch, words, hints) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    says(call(*(word.replace("{m}", str(model)) for word in words)), 2, *hints)


# Shapes, ranges, labels --------------------------------------------------------------------


def test_images_of_another_shape(call, model, tmp_path) -> None:
    folder = pictures(tmp_path / "larger", dict.fromkeys(NAMES, 1), side=12)
    says(call("audit", model, "--data", folder), 2, "(1, 8, 8)", "(1, 12, 12)")
    attack = ("attack", model, "--data", folder, "--attack", "fgsm", "--set", "eps=0.1")
    says(call(*attack), 2, "(1, 8, 8)", "(1, 12, 12)")
    train = ("train", "--from", model, "--data", folder, "--out", "x.safetensors")
    says(call(*train), 2, "(1, 12, 12)")


def test_another_number_of_classes(call, model, tmp_path) -> None:
    folder = pictures(tmp_path / "two", {"cat": 2, "dog": 2})
    says(call("audit", model, "--data", folder), 2, "10 classes", "has 2")


# Too few images ----------------------------------------------------------------------------


def test_an_empty_class(call, tmp_path, model) -> None:
    train, _ = mi.load_data("digits")
    some = train.subset((train.labels != 8).nonzero()[:, 0])
    attack = mi.poisons.BadNets(trigger=mi.triggers.SinglePixel(), source=8, target=9, count=1)
    refused(lambda: attack.poison(some, rng=mi.rng(0)), "no image of class 8")
    inspector = mi.inspectors.BiasMaps(controls=1)
    net = untrained()
    refused(
        lambda: inspector.inspect(net, some, reference=[net], rng=mi.rng(0)), "class 8", "0 image"
    )


def test_one_image(call, model, tmp_path) -> None:
    attack = ("attack", model, "--data", "digits", "--attack", "fgsm", "--set", "eps=0.1")
    done = call(*attack, "--samples", 1)
    assert done.code == 0, done.err
    assert "of 1 image " in done.out
    _, test = mi.load_data("digits")
    one = test.subset([0])
    refused(lambda: check_model("m", untrained(), one), "single image", code=3)


# Models ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(call, tmp_path, value) -> None:
    broken = untrained()
    with torch.no_grad():
        next(broken.module.parameters()).view(-1)[0] = value
    mi.save(broken, tmp_path / "m.safetensors")
    for words in (("audit",), ("attack", "--attack", "fgsm", "--set", "eps=0.1")):
        done = call(words[0], "m.safetensors", "--data", "digits", *words[1:])
        says(done, 3, "m.safetensors", "NaN or infinite")


def test_logits_that_are_not_finite() -> None:
    class Overflow(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :10] / 0

    _, test = mi.load_data("digits")
    model = mi.Classifier(Overflow(), classes=10)
    refused(lambda: check_model("m", model, test), "m gives NaN or infinite", code=3)


def test_a_constant_model(call, tmp_path) -> None:
    constant = untrained()
    with torch.no_grad():
        for parameter in constant.module.parameters():
            parameter.zero_()
    mi.save(constant, tmp_path / "m.safetensors")
    says(call("audit", "m.safetensors", "--data", "digits"), 3, "class 0", "constant")


def test_a_model_that_returns_probabilities(call, model, monkeypatch) -> None:
    logits = DigitsCNN.forward
    monkeypatch.setattr(DigitsCNN, "forward", lambda self, x: logits(self, x).softmax(1))
    for words in (("audit",), ("attack", "--attack", "fgsm")):
        done = call(words[0], model, "--data", "digits", *words[1:])
        says(done, 2, "m.safetensors returns probabilities", "logits")


def test_a_reference_of_another_architecture(call, model, tmp_path) -> None:
    mi.save(untrained(width=0.5), tmp_path / "other.safetensors")
    words = ("audit", model, "--data", "digits", "--reference", "other.safetensors")
    says(call(*words), 2, "other.safetensors", "architecture")


# Files -------------------------------------------------------------------------------------


def test_damaged_and_foreign_checkpoints(call, model, tmp_path) -> None:
    half = tmp_path / "half.safetensors"
    half.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"PK\x03\x04 something else" * 20)
    pickled = tmp_path / "pickled.pt"
    pickled.write_bytes(pickle.dumps({"weight": os.getcwd}))
    for path in (half, foreign, pickled, tmp_path / "missing.safetensors", tmp_path):
        says(call("audit", path, "--data", "digits"), 2, path.name)


def test_data_that_cannot_be_read(call, model, tmp_path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    says(call("audit", model, "--data", folder), 2, "set")
    for split in ("train", "test"):
        (folder / f"{split}-00000-of-00001.parquet").write_bytes(b"PAR1" + b"\0" * 200)
    says(call("audit", model, "--data", folder), 2, "parquet")
    says(call("audit", model, "--data", tmp_path / "nowhere"), 2, "does not exist")


def test_an_unwritable_folder(call, model, tmp_path, monkeypatch) -> None:
    """Under a file, since tests may run as somebody who may write anywhere."""
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "below"
    says(call("audit", model, "--data", "digits", "--out", out), 4, "below")
    says(call("demo", "--out", out), 4, "below")
    attack = ("attack", model, "--data", "digits", "--attack", "fgsm", "--set", "eps=0.1")
    says(call(*attack, "--out", out), 4, "below")
    train = ("train", "--network", "digits-cnn", "--data", "digits", "--epochs", 1)
    says(call(*train, "--out", out), 4, "below")


def test_a_folder_that_is_no_run(call, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    says(call("report", "empty"), 2, "study.json")


def test_ctrl_c(call, model, monkeypatch) -> None:
    """Signals to a real process are sent in tests/cli/test_main.py."""

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(presets, "checked", stop)
    done = call("audit", model, "--data", "digits")
    assert done.code == 130
    assert done.err.split() == ["mithridate:", "interrupted"]
