"""Weights, networks and files of every kind: opened as plain torch would use them, or refused."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.errors import CheckpointError, InputError
from mithridate.models.open import in_order_of
from mithridate.networks.checkpoint import fingerprint

SHAPE = (1, 8, 8)

NET = """
import pathlib

import torch
from torch import nn

pathlib.Path("ran").touch()

class Net(nn.Module):
    def __init__(self, num_classes: int = 4, width: int = 8):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width * 64, num_classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv((x - 0.5) / 0.25)))
        return self.head(x.view(x.size(0), -1))

def make(size):
    return Net(width=size)

def wrong():
    return 3
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's file with a network in it; `ran` appears beside it whenever it runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(f"{NET}# {tmp_path}")  # each test runs its own
    return tmp_path / "net.py"


def trained(code: Path, **settings: Any) -> nn.Module:
    space: dict[str, Any] = {}
    exec(code.read_text(), space)
    (code.parent / "ran").unlink()
    torch.manual_seed(3)
    module: nn.Module = space["Net"](**settings)
    module(torch.rand(64, *SHAPE))  # moves the running statistics
    return module.eval()


def images(n: int = 6) -> Tensor:
    return torch.rand((n, *SHAPE), generator=mi.rng(0))


def wrappings(state: dict[str, Tensor]) -> dict[str, Any]:
    """The ways in which people save the same weights."""

    def under(prefix: str) -> dict[str, Tensor]:
        return {prefix + name: tensor for name, tensor in state.items()}

    net = nn.Linear(2, 2)
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    adam.step()
    beside = {
        "epoch": 3,
        "loss": 0.25,
        "optimizer": adam.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(adam, 3).state_dict(),
        "args": argparse.Namespace(lr=0.1, name="x"),
        "best": np.float64(0.9),
        "rng": torch.get_rng_state(),
    }
    keys = ("state_dict", "model", "net", "model_state_dict", "ema", "model_ema", "anything")
    return {
        "plain": state,
        **{f"under {key}": {key: state} for key in keys},
        "training checkpoint": {"model_state_dict": state, **beside},
        "DataParallel": under("module."),
        "compiled": under("_orig_mod."),
        "both": under("_orig_mod.module."),
        "Lightning": {
            "state_dict": under("model.") | {"criterion.weight": torch.ones(3)},
            **beside,
        },
        "averaged": {**under("module."), "n_averaged": torch.tensor(3)},
        "old": {name: t for name, t in state.items() if "num_batches" not in name},
        "beside an average": {"model": state, "ema": {k: t * 0 for k, t in state.items()}},
    }


@pytest.mark.parametrize("kind", wrappings({}))
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_weights_are_found_wherever_they_are_kept(code: Path, kind: str, ending: str) -> None:
    module = trained(code)
    saved = wrappings(module.state_dict())[kind]
    path = code.with_name(f"m.{ending}")
    if ending == "pt":
        torch.save(saved, path)
    elif all(isinstance(part, Tensor) for part in saved.values()):
        save_file(saved, path)
    else:
        return  # safetensors holds nothing but tensors
    model = mi.load(path, network=f"{code}:Net", trust_code=True, image_shape=SHAPE)
    assert torch.equal(model.labels(images()), module(images()).argmax(1))
    torch.testing.assert_close(model.logits(images()), module(images()))
    assert (model.classes, model.image_shape) == (4, SHAPE)


def test_an_ending_that_is_another_formats_changes_nothing(code: Path) -> None:
    module = trained(code)
    ours = mi.Classifier(nn.Flatten(), classes=64, image_shape=SHAPE)
    mi.save(ours, code.with_name("ours.pt"))
    save_file(module.state_dict(), code.with_name("plain.pt"))
    torch.save(module.state_dict(), code.with_name("zip.safetensors"))
    opened = mi.load(code.with_name("ours.pt"), network=nn.Flatten())
    assert fingerprint(opened) == fingerprint(ours)
    for name in ("plain.pt", "zip.safetensors"):
        place = code.with_name(name)
        model = mi.load(place, network=f"{code}:Net", trust_code=True, image_shape=SHAPE)
        torch.testing.assert_close(model.logits(images()), module(images()))


def test_own_code_runs_only_where_it_is_trusted(code: Path) -> None:
    torch.save(trained(code).state_dict(), code.with_name("m.pt"))
    for network in (f"{code}:Net", "net:Net"):
        with pytest.raises(InputError, match="--trust-code"):
            mi.load("m.pt", network=network)
    with pytest.raises(InputError, match="--trust-code"):
        mi.load("net:Net")
    assert not Path("ran").exists()
    assert mi.load("m.pt", network="net.py:Net", trust_code=True).classes == 4
    assert Path("ran").exists()


def test_settings_and_facts_of_the_data_reach_the_constructor(code: Path) -> None:
    torch.save(trained(code, num_classes=7, width=3).state_dict(), "m.pt")
    how: dict[str, Any] = {"network": "net.py:Net", "trust_code": True, "image_shape": SHAPE}
    model = mi.load("m.pt", **how, settings={"width": "3"}, classes=7)
    assert (model.classes, model.module.conv.out_channels) == (7, 3)
    assert mi.load("m.pt", **how, settings={"width": 3, "num_classes": "7"}).classes == 7
    with pytest.raises(CheckpointError, match=r"--set network\.KEY=VALUE"):
        mi.load("m.pt", **how)
    with pytest.raises(InputError, match="did you mean 'width'"):
        mi.load("m.pt", **how, settings={"widht": 3})
    with pytest.raises(InputError, match="width is a whole number"):
        mi.load("m.pt", **how, settings={"width": "wide"})


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("net.py:Nett", "did you mean 'Net'"),
        ("net.py:make", "missing 1 required positional argument"),
        ("net.py:wrong", "gives int"),
        ("no.py:Net", "no such file"),
        ("nowhere.at_all:Net", "cannot be imported"),
        ("resnet81", "did you mean 'resnet18'"),
    ],
)
def test_a_network_that_is_none_is_one_line(code: Path, network: str, words: str) -> None:
    torch.save(trained(code).state_dict(), "m.pt")
    with pytest.raises(InputError, match=words) as caught:
        mi.load("m.pt", network=network, trust_code=True)
    assert "\n" not in str(caught.value)


def test_a_callable_may_make_the_whole_model(code: Path) -> None:
    model = mi.load("net.py:make", trust_code=True, settings={"size": "5"}, image_shape=SHAPE)
    assert (model.classes, model.module.conv.out_channels) == (4, 5)
    Path("whole.py").write_text(
        "import torch, mithridate as mi\n"
        "def model():\n"
        "    return mi.Classifier(torch.nn.Flatten(), classes=['a', 'b'], bounds=(0, 9))\n"
    )
    whole = mi.load("whole:model", trust_code=True)
    assert (whole.class_names, whole.input_range) == (("a", "b"), (0, 9))


def test_classes_are_found_by_running_and_never_from_a_matrix() -> None:
    """The last matrix is a projection's: 32 rows, and the model has 5 classes."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.projection = nn.Linear(64, 5), nn.Linear(64, 32)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(x.flatten(1))
            return out

    assert _loaded(Two()).classes == 5
    assert _loaded(Two(), image_shape=SHAPE).image_shape == SHAPE
    assert _loaded(Two(), classes=["a", "b", "c", "d", "e"]).class_names == tuple("abcde")
    with pytest.raises(InputError, match="number of classes"):
        _loaded(Two(), classes=4)
    with pytest.raises(InputError, match=r"does not take images \(3, 9, 9\)"):
        _loaded(Two(), image_shape=(3, 9, 9))


def _loaded(module: nn.Module, **how: Any) -> Classifier:
    with tempfile.TemporaryDirectory() as folder:
        torch.save(module.state_dict(), Path(folder) / "m.pt")
        return mi.load(Path(folder) / "m.pt", network=module, **how)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8)])
def test_a_registered_network_fits_its_weights_alone(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    name = "digits-cnn" if shape[1] == 8 else "borji-cnn"
    net = mi.networks.create(name, image_shape=shape, classes=7)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    model = mi.load(tmp_path / "w.pt", network=name)
    assert fingerprint(model) == fingerprint(Classifier(net, classes=7))
    assert (model.classes, model.image_shape) == (7, shape)


def test_half_precision_weights_run_as_the_module_does(code: Path) -> None:
    module = trained(code)
    half = {k: t.bfloat16() if t.is_floating_point() else t for k, t in module.state_dict().items()}
    save_file(half, "h.safetensors")
    module.load_state_dict(half)  # what plain torch does with them
    model = mi.load("h.safetensors", network="net.py:Net", trust_code=True, image_shape=SHAPE)
    torch.testing.assert_close(model.logits(images()), module(images()))
    Path("half.py").write_text("from net import Net\n\ndef make():\n    return Net().bfloat16()\n")
    model = mi.load("h.safetensors", network="half.py:make", trust_code=True, image_shape=SHAPE)
    assert model.module.head.weight.dtype == torch.bfloat16
    torch.testing.assert_close(model.logits(images()), module(images()), rtol=0.1, atol=0.1)


def test_an_own_module_that_was_saved_here_opens_by_its_code(code: Path) -> None:
    module = trained(code)
    mi.save(Classifier(module, classes=["a", "b", "c", "d"], image_shape=SHAPE), "m.safetensors")
    with pytest.raises(CheckpointError, match=r"weights of Net.*add --network"):
        mi.load("m.safetensors")
    model = mi.load("m.safetensors", network="net.py:Net", trust_code=True)
    assert model.class_names == tuple("abcd")
    assert torch.equal(model.logits(images()), module(images()))


def _foreign(folder: Path) -> dict[str, tuple[str, str]]:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    torch.save(net, folder / "module.pt")
    torch.save(net.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.jit.trace(net, torch.ones(1, *SHAPE)).save(str(folder / "script.pt"))
    torch.save(net.state_dict(), folder / "program.pt2")
    for name in ("m.h5", "m.keras", "m.tflite", "m.joblib", "m.engine", "m.xyz"):
        (folder / name).write_bytes(b"something")
    (folder / "tf").mkdir()
    (folder / "tf" / "saved_model.pb").write_bytes(b"x")
    (folder / "empty").mkdir()
    return {
        "module.pt": ("whole module", "weights_only=False).state_dict()"),
        "old.pt": ("bare pickle", "weights_only=True)"),
        "script.pt": ("TorchScript", "torch.jit.load("),
        "program.pt2": ("exported program", "torch.export.load("),
        "m.h5": ("Keras", "tf2onnx.convert --keras"),
        "m.keras": ("Keras", "tf2onnx.convert --keras"),
        "m.tflite": ("TensorFlow Lite", "tf2onnx.convert --tflite"),
        "m.joblib": ("scikit-learn", "skl2onnx"),
        "m.engine": ("TensorRT", "ONNX"),
        "m.xyz": ("ending '.xyz'", ".safetensors"),
        "tf": ("SavedModel", "tf2onnx.convert --saved-model"),
        "empty": ("folder", "config.json"),
        "ftp://localhost/model": ("http(s)://host/path", "file"),
        "http://localhost/model": ("a service", "leave --network out"),
        "missing.pt": ("no such file", "missing.pt"),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_cannot_be_opened_says_what_it_is_and_what_converts_it(tmp_path: Path) -> None:
    for name, words in _foreign(tmp_path).items():
        source = name if "://" in name else tmp_path / name
        with pytest.raises(InputError) as caught:
            mi.load(source, network=nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
        text = str(caught.value)
        assert all(word in text for word in words), text
        assert "\n" not in text


def test_the_command_that_converts_an_old_file_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    torch.save(net.state_dict(), "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError) as caught:
        mi.load("old.pt", network=net)
    exec(str(caught.value).partition('python -c "')[2].rstrip('"'), {})
    assert fingerprint(mi.load("old-weights.pt", network=net)) == fingerprint(
        Classifier(net, classes=3)
    )


def test_classes_are_matched_by_name() -> None:
    model = Classifier(nn.Flatten(), classes=["zero", "one", "two"])
    x = torch.tensor([[[[0.1, 0.7, 0.2]]]])
    turned = in_order_of(model, ["Two", "zero", "one"])
    assert turned.class_names == ("Two", "zero", "one")
    assert turned.labels(x).tolist() == [2]
    assert fingerprint(turned) != fingerprint(in_order_of(model, ["one", "zero", "two"]))
    for same in (["zero", "one", "two"], ["0", "1", "2"], ["zero", "ONE", "other"]):
        assert in_order_of(model, same) is model
    for other in (["cat", "dog", "owl"], ["one", "two", "owl"]):
        with pytest.raises(InputError, match="--classes"):
            in_order_of(model, other)


def test_a_classifier_that_a_function_makes_keeps_its_range(code: Path) -> None:
    Path("ranged.py").write_text(
        "import mithridate as mi\nfrom net import Net\n\n"
        "def make():\n    return mi.Classifier(Net(), classes=4, bounds=(0, 255))\n"
    )
    module = trained(code)
    torch.save(module.state_dict(), "m.pt")
    model = mi.load("m.pt", network="ranged.py:make", trust_code=True, image_shape=SHAPE)
    torch.testing.assert_close(model.logits(images()), module(255 * images()))
