"""A stranger's network, from the command line; every format of it: tests/docs/test_how_to.py."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mithridate as mi

NET = '''
import torch
from torch import nn

class Net(nn.Module):
    """Flattens by view, and normalises inside."""

    def __init__(self, num_classes=10, width=8):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width * 64, num_classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv((x - 0.5) / 0.25)))
        return self.head(x.view(x.size(0), -1))

def whole():
    net = Net()
    net.load_state_dict(torch.load("state.pt", weights_only=True))
    return net
'''

ASKED = ("--data", "digits", "--samples", 40, "--quiet", "--json")
OWN = ("--network", "stranger.py:Net", "--trust-code")


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A trained network, saved in some of the ways of docs/how-to/open-your-own-model.md."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "stranger.py").write_text(NET)
    sys.path.insert(0, str(folder))
    import stranger  # type: ignore[import-not-found]

    train, _ = mi.load_data("digits")
    net = mi.fit(stranger.Net(), train, epochs=6, rng=mi.rng(0), lr=3e-3).module
    state: dict[str, Tensor] = net.state_dict()
    torch.save(state, folder / "state.pt")
    adam = torch.optim.Adam(net.parameters())
    beside = {"epoch": 6, "loss": 0.1, "optimizer_state_dict": adam.state_dict()}
    torch.save({"model_state_dict": state, **beside}, folder / "training.pt")
    wrapped = {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": wrapped}, folder / "compiled.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        x = torch.zeros(1, 1, 8, 8)
        with contextlib.suppress(torch.onnx.OnnxExporterError):  # without onnx
            sizes = {"x": {0: "n"}}
            torch.onnx.export(
                net, (x,), folder / "net.onnx", dynamo=False, input_names=["x"], dynamic_axes=sizes
            )
    yield folder
    sys.path.remove(str(folder))
    del sys.modules["stranger"]


@pytest.fixture
def there(formats: Path, monkeypatch: pytest.MonkeyPatch, call: Any) -> Any:
    """`call`, in the folder of the formats."""
    monkeypatch.chdir(formats)
    return call


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("state.pt",), "--network"),
        (("state.pt", "--network", "stranger.py:Net"), "--trust-code"),
        (("state.pt", *OWN, "--set", "network.width=9"), "network.KEY=VALUE"),
        (("state.pt", "--set", "network.width=9"), "goes with --network"),
        (("state.pt", *OWN, "--set", "network.depth=9"), "no setting of"),
        (("state.pt", *OWN, "--classes", "a,b"), "number of classes"),
        (("ftp://host/model",), "give http(s)://host/path"),
        (("http://127.0.0.1:1/model",), "cannot be reached"),
        (("state.pt", *OWN, "--set", "endpoint.budget=9"), "go with an address"),
        (("stranger.py:whole",), "--trust-code"),
    ],
)
def test_each_refusal_is_a_line_that_says_what_to_add(
    there: Any, words: tuple[str, ...], message: str
) -> None:
    done = there("attack", *words, "--attack", "fgsm", *ASKED)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1


def test_gradients_of_an_onnx_file_are_refused(there: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnx", reason="onnx, to write a file with, is not installed")
    words = ("attack", "net.onnx", "--attack", "pgd,square", "--set", "square.queries=50")
    done = there(*words, *ASKED, "--out", tmp_path / "out")
    statuses = {row["name"]: row["status"] for row in json.loads(done.out)["attacks"]}
    assert statuses["square"] == "done"
    assert "needs gradients" in statuses["pgd"]
    assert "hopskipjump" in statuses["pgd"]
    assert there("attack", "net.onnx", "--attack", "square", "--plan", *ASKED).code == 0
    through = ("--through", "state.pt", *OWN)  # gradients of another model that is at hand
    done = there("attack", "net.onnx", "--attack", "pgd", *through, *ASKED, "--out", tmp_path / "o")
    assert done.code == 0, done.err
    assert json.loads(done.out)["attacks"][0]["success"]["value"] > 0.5


def test_audit_fool_and_sanitize_open_it_too(there: Any, tmp_path: Path) -> None:
    audit = ("audit", "state.pt", *OWN, "--data", "digits")
    small = ("control_epochs=1", "pairs=1", "images=4", "samples=20", "grow_steps=3",
             "attack_images=20", "noise_queries=300")  # fmt: skip
    settings = [word for item in small for word in ("--set", item)]
    out = ("--out", tmp_path / "audit", "--quiet")
    done = there(*audit, "--controls", 2, *settings, *out)
    assert done.code == 0, done.err
    fool = ("fool", "training.pt", *OWN, "--data", "digits", "--json", "--quiet")
    done = there(*fool, "--set", "generations=2")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["confidence"]) == 10
    sanitize = ("sanitize", "--data", "digits", "--model", "compiled.pth", *OWN, "--quiet")
    done = there(*sanitize, "--out", tmp_path / "kept")
    assert done.code == 0, done.err


def test_any_weights_are_trained_further_and_crafted_against(there: Any, tmp_path: Path) -> None:
    few = ("--data", "digits", "--epochs", 1, "--quiet", "--json", "--set", "lr=1e-4")
    done = there("train", "--from", "training.pt", *OWN, *few, "--out", tmp_path / "m.safetensors")
    assert done.code == 0, done.err
    assert json.loads(done.out)["accuracy"]["value"] > 0.8, "it began from the weights"
    done = there("train", *OWN, "--set", "network.width=4", *few, "--out", tmp_path / "n.st")
    assert done.code == 0, done.err
    assert json.loads(done.out)["accuracy"]["value"] < 0.5, "it began from scratch"
    state = mi.networks.checkpoint.read_tensors(tmp_path / "n.st")[0]
    assert state["conv.weight"].shape == (4, 1, 3, 3)
    poison = ("poison", "--data", "digits", "--poison", "clean-label", "--surrogate", "state.pt")
    small = [w for s in ("trigger=c-top-right", "target=3", "count=9", "steps=1", "eps=0.1")
             for w in ("--set", s)]  # fmt: skip
    done = there(*poison, *OWN, *small, "--quiet", "--out", tmp_path / "set")
    assert done.code == 0, done.err
    ours = ("train", "--from", tmp_path / "m.safetensors", "--network", "resnet18", *few)
    done = there(*ours, "--trust-code", "--out", tmp_path / "o.safetensors")
    assert done.code == 2


def test_the_code_is_part_of_what_is_attacked(there: Any, formats: Path, tmp_path: Path) -> None:
    """The same weights in other code: the cached answer of the old code is not given again."""
    words = ("state.pt", "--trust-code", "--attack", "fgsm", *ASKED, "--keep")
    turned = formats / "turned.py"
    shares = []
    for line in ("", "        x = 1 - x\n"):
        turned.write_text(NET.replace("def forward(self, x):\n", f"def forward(self, x):\n{line}"))
        out = tmp_path / f"out{len(shares)}"
        done = there("attack", *words, "--network", "turned.py:Net", "--out", out)
        shares.append(json.loads(done.out)["clean_accuracy"]["value"])
    assert shares[0] > 0.8 > shares[1]


def folder_of(place: Path, names: list[str]) -> Path:
    """The digits 0 and 1 as class folders with those names."""
    from PIL import Image

    _, test = mi.load_data("digits")
    for part in ("train", "test"):
        for label, name in enumerate(names):
            inside = place / part / name
            inside.mkdir(parents=True)
            for number in test.of_class(label)[:12].tolist():
                x = (test.batch([number])[0][0, 0] * 255).byte().numpy()
                Image.fromarray(x).save(inside / f"{number}.png")
    return place


def test_class_names_are_compared(there: Any, tmp_path: Path, formats: Path) -> None:
    """The folder is sorted `one, zero`; the model says zero, one: its answers are put in order."""
    import stranger

    train, _ = mi.load_data("digits")
    rows = torch.cat([train.of_class(0), train.of_class(1)])
    x, y = train.batch(rows)
    few = mi.ImageSet((255 * x).byte(), y.tolist(), ["zero", "one"])
    mi.save(
        mi.fit(stranger.Net(num_classes=2), few, epochs=8, rng=mi.rng(0), lr=3e-3), "b.safetensors"
    )
    data = folder_of(tmp_path / "named", ["zero", "one"])
    how = ("--attack", "fgsm", "--samples", 10, "--quiet", "--json")
    net = ("--network", "stranger.py:Net", "--trust-code")
    done = there("attack", "b.safetensors", *net, "--data", data, *how)
    assert done.code == 0, done.err
    assert json.loads(done.out)["clean_accuracy"]["value"] > 0.9
    other = folder_of(tmp_path / "other", ["nil", "unit"])
    done = there("attack", "b.safetensors", *net, "--data", other, *how)
    assert done.code == 2
    assert "which is which cannot be told; give --classes" in done.err
    for stated in ("data", "nil,unit"):
        done = there("attack", "b.safetensors", *net, "--data", other, *how, "--classes", stated)
        assert json.loads(done.out)["clean_accuracy"]["value"] > 0.9


def test_a_study_file_cannot_trust_code_or_send_a_secret(there: Any, tmp_path: Path) -> None:
    study, run = tmp_path / "own.toml", ("run", tmp_path / "own.toml", "--quiet", "--workers", 1)
    text = (
        'name = "own"\ntitle = "Own"\nquestion = "?"\n[defaults]\ndata = "digits"\n'
        '{}network = "stranger.py:Net"\n{}[matrix.clean]\nmeasure = "accuracy"\n{}'
    )
    shutil.copy("state.pt", tmp_path / "own.pt")
    model = f'model = "{tmp_path}/own.pt"\n'
    for inside, axes, message in (
        ("opening = {trust_code = true}\n", "", "cannot trust code for you"),
        ("", '[matrix.clean.axes]\n"opening.trust_code" = [true]\n', "cannot trust code for you"),
        ('opening = {endpoint = {auth = "HOME"}}\n', "", "cannot send a secret of yours"),
    ):
        study.write_text(text.format(model, inside, axes))
        done = there(*run, "--out", tmp_path / "o")
        assert done.code == 2
        assert message in done.err
    study.write_text(text.format(model, "", ""))
    done = there(*run, "--out", tmp_path / "p")
    assert done.code != 0
    said = (tmp_path / "p" / "cells.jsonl").read_text() + done.err
    assert "add --set defaults.opening.trust_code=true" in said, "in a study's words"
    trusted = ("--set", "defaults.opening.trust_code=true")
    done = there(*run, "--out", tmp_path / "o", *trusted)
    assert done.code == 0, done.err
    study.write_text(text.format("", "train = {epochs = 1}\n", ""))
    done = there(*run, "--out", tmp_path / "q")
    assert done.code == 2
    assert "stranger.py:Net is your own code, and a study trains networks that have" in done.err
