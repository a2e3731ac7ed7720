"""What users get wrong: one clear line each, and the right exit code. Issue 2's list."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import mithridate as mi
from mithridate.cli.main import main
from mithridate.data import ImageSet
from mithridate.errors import InputError
from mithridate.networks.base import Network

SHAPE = (1, 8, 8)
NAMES = [str(i) for i in range(10)]


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys, monkeypatch, tmp_path) -> Callable[..., Done]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MITHRIDATE_CACHE", str(tmp_path / "cache"))

    def run(*words: object) -> Done:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Done(code, *capsys.readouterr())

    return run


def says(done: Done, code: int, *words: str) -> None:
    """The exit code, and one line of explanation that holds these words."""
    lines = done.err.splitlines()
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


# Unknown names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("audti", "m"), "train"),
        (("audit", "m", "--data", "digits", "--refrence", "x"), "--reference"),
        (("train", "--network", "borji-cn", "--data", "digits", "--out", "x"), "borji-cnn"),
        (("train", "--network", "digits-cnn", "--data", "digts", "--out", "x"), "digits"),
        (("audit", "{m}", "--data", "mnits"), "mnist"),
        (("attack", "{m}", "--data", "digits", "--attack", "pgdd"), "pgd"),
        (("attack", "{m}", "--data", "digits", "--attack", "fgsm", "--set", "esp=1"), "eps"),
        (("audit", "{m}", "--data", "digits", "--set", "probes=noise"), "probe"),
        (("list", "atacks"), "attacks"),
    ],
)
def test_unknown_names(call, model, words, hint) -> None:
    done = call(*(word.replace("{m}", str(model)) for word in words))
    says(done, 2, hint if hint != "train" else "No such command")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("trigger=c-topright", "target=9", "count=5"), ("c-top-right",)),
        (("trigger=c-top-right", "target=9"), ("count", "fraction")),
        (("trigger=c-top-right", "target=9", "source=9", "count=5"), ("both class 9",)),
        (("trigger=c-top-right", "target=12", "count=5"), ("0 to 9",)),
        (("trigger=c-top-right", "target=nine", "count=5"), ("whole number",)),
        (("target=9", "count=5"), ("trigger",)),
        (("trigger=c-top-right", "target=9", "source=8", "count=5000"), ("lower count",)),
    ],
)
def test_bad_poison_settings(call, settings, words) -> None:
    given = [part for setting in settings for part in ("--set", setting)]
    base = ("train", "--network", "digits-cnn", "--data", "digits", "--out", "x.safetensors")
    says(call(*base, "--poison", "badnets", *given), 2, *words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("eps=-1",), ("eps", "-1")),
        (("eps=much",), ("a number",)),
        (("norm=l2",), ("--set eps", "l2")),
        (("eps",), ("KEY=VALUE",)),
    ],
)
def test_bad_attack_settings(call, model, settings, words) -> None:
    given = [part for setting in settings for part in ("--set", setting)]
    base = ("attack", model, "--data", "digits", "--attack", "fgsm")
    says(call(*base, *given), 2, *words)


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x * 255, ("[0, 1]", "divide by 255")),
        (lambda x: x / 255, ("divided by 255 twice",)),
        (lambda x: x * 2 - 1, ("[0, 1]", "undo the normalisation")),
        (lambda x: (x * 255).byte(), ("uint8", "/ 255")),
        (lambda x: x * float("nan"), ("NaN",)),
        (lambda x: x[0], ("N x C x H x W",)),
        (lambda x: x[:, :, :4], ("(1, 4, 8)", "(1, 8, 8)")),
    ],
)
def test_images_in_another_range_or_shape(change, words) -> None:
    x, y = mi.load_data("digits")[1].batch(range(4))
    attack, goal = mi.attacks.FGSM(eps=0.1), mi.Untargeted(y)
    refused(lambda: mi.run_attack(attack, untrained(), change(x), goal, rng=mi.rng(0)), *words)


def test_image_sets_keep_the_two_ranges_apart() -> None:
    pixels, labels = torch.full((2, 1, 8, 8), 200).byte(), [0, 1]
    refused(lambda: ImageSet(pixels.float() / 255, labels, ["a", "b"]), "from_float")
    refused(lambda: ImageSet.from_float(pixels.float(), labels, ["a", "b"]), "divide by 255")
    refused(lambda: ImageSet(pixels.permute(0, 2, 3, 1), labels, ["a", "b"]), "permute")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1, 2], ("subtract 1",)),
        ([0, 5], ("0 to 1",)),
        ([-1, 0], ("start at 0",)),
        (torch.tensor([0.0, 1.0]), (".long()",)),
        ([0, 1, 1], ("3 labels",)),
    ],
)
def test_labels(labels, words) -> None:
    pixels = torch.zeros(2, 1, 8, 8).byte()
    refused(lambda: ImageSet(pixels, labels, ["a", "b"]))
    x = torch.full((2, 1, 8, 8), 0.5)
    model = untrained(classes=2)
    words = ("2 images",) if len(labels) == 3 else words

    def attack() -> object:
        goal = mi.Untargeted(labels)
        return mi.run_attack(mi.attacks.FGSM(eps=0.1), model, x, goal, rng=mi.rng(0))

    refused(attack, *words)


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
    plan = mi_audit(attack_images=1)
    refused(lambda: plan.run(subject(untrained()), one, one), "single image", code=3)


def mi_audit(**settings):
    from mithridate.studies import Audit

    return Audit(**settings)


def subject(model: mi.Classifier, name: str = "suspect"):
    from mithridate.studies import Subject

    return Subject(name, model)


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
    refused(lambda: mi_audit().run(subject(model), test, test), "NaN or infinite", code=3)


def test_a_constant_model(call, tmp_path) -> None:
    constant = untrained()
    with torch.no_grad():
        for parameter in constant.module.parameters():
            parameter.zero_()
    mi.save(constant, tmp_path / "m.safetensors")
    says(call("audit", "m.safetensors", "--data", "digits"), 3, "class 0", "constant")


class Softmax(Network):
    """A network that ends in what a classifier does not want."""

    def build(self, image_shape, classes, width):
        return [nn.Flatten(), nn.Linear(64, classes), nn.Softmax(1)]


def test_a_model_that_returns_probabilities(call, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(mi.registry.TABLES["networks"], "soft", f"{__name__}:Softmax")
    monkeypatch.setattr(mi.registry, "find", _find_softmax(mi.registry.find))
    mi.save(untrained("soft"), tmp_path / "m.safetensors")
    says(call("audit", "m.safetensors", "--data", "digits"), 2, "probabilities", "logits")


def _find_softmax(find):
    return lambda kind, name: Softmax if name == "soft" else find(kind, name)


def test_a_reference_of_another_architecture(call, model, tmp_path) -> None:
    mi.save(untrained(width=0.5), tmp_path / "other.safetensors")
    words = ("audit", model, "--data", "digits", "--reference", "other.safetensors")
    says(call(*words), 2, "other.safetensors", "architecture")


def test_nothing_to_compare_with(call, model) -> None:
    says(call("audit", model, "--data", "digits", "--controls", 0), 2, "at least one clean model")


# Files -------------------------------------------------------------------------------------


def test_damaged_and_foreign_checkpoints(call, model, tmp_path) -> None:
    half = tmp_path / "half.safetensors"
    half.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"PK\x03\x04 something else" * 20)
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    for path in (half, foreign, empty, tmp_path / "missing.safetensors", tmp_path):
        says(call("audit", path, "--data", "digits"), 2, path.name)


class Payload:
    """Makes a folder when unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("owned",))


def test_a_pickle_that_wants_to_run_code(call, tmp_path) -> None:
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"weight": Payload()}))
    with zipfile.ZipFile(tmp_path / "zipped.pt", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Payload()))
        file.writestr("archive/version", "3")
    for name in ("plain.pt", "zipped.pt"):
        says(call("audit", name, "--data", "digits"), 2, name)
        assert not (tmp_path / "owned").exists()


def test_missing_and_half_parquet(call, model, tmp_path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    says(call("audit", model, "--data", folder), 2, "set")
    (folder / "train-00000-of-00001.parquet").write_bytes(b"PAR1" + b"\0" * 200)
    (folder / "test-00000-of-00001.parquet").write_bytes(b"PAR1" + b"\0" * 200)
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
    says(call("report", "empty"), 2, "record.json")


def test_ctrl_c(call, model, monkeypatch) -> None:
    """Signals to a real process are sent in tests/cli/test_main.py."""

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("mithridate.data.load_data", stop)
    done = call("audit", model, "--data", "digits")
    assert done.code == 130
    assert done.err.split() == ["mithridate:", "interrupted"]


def test_errors_are_value_errors() -> None:
    with pytest.raises(ValueError, match="eps"):
        mi.attacks.FGSM(eps=-1)
    assert issubclass(InputError, ValueError)
