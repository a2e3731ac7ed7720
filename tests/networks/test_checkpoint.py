"""Checkpoints: what was saved comes back, and each kind of bad file is one clear line."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.errors import CheckpointError, InputError, NothingAssessedError, RunError
from mithridate.networks import storage
from mithridate.networks.base import create
from mithridate.networks.checkpoint import fingerprint, load, save, sha256
from mithridate.rng import rng

SHAPE = (1, 8, 8)
NAMES = [f"digit {i}" for i in range(10)]


def made(seed: int = 0, width: float = 0.5) -> Classifier:
    net = create("digits-cnn", image_shape=SHAPE, classes=10, width=width, rng=rng(seed))
    return Classifier(
        net, classes=NAMES, image_shape=SHAPE, bounds=(-1, 1), info={"training": {"lr": 0.1}}
    )


def header_of(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    found: dict[str, Any] = json.loads(
        json.loads(raw[8 : 8 + length])["__metadata__"]["mithridate"]
    )
    return found


def rewrite(path: Path, **changes: Any) -> Path:
    """The same file with some header fields changed (None removes one)."""
    header = {**header_of(path), **changes}
    header = {k: v for k, v in header.items() if v is not None}
    save_file(load_file(path), path, metadata={"mithridate": json.dumps(header)})
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save(made(), tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def refuses(path: Path, *words: str, kind: type[Exception] = CheckpointError, **how: Any) -> str:
    with pytest.raises(kind) as caught:
        load(path, **how)
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in (path.name, *words)), text
    return text


def test_round_trip(file: Path) -> None:
    model, back = made(), load(file)
    x = torch.rand(5, *SHAPE)
    assert torch.equal(model.logits(x), back.logits(x))
    assert fingerprint(model) == fingerprint(back)
    assert back.class_names == tuple(NAMES)
    assert (back.input_range, back.image_shape) == ((-1.0, 1.0), SHAPE)
    assert back.info == {"training": {"lr": 0.1}}
    assert back.module.settings == model.module.settings
    assert not back.module.training


def test_saving_is_deterministic(file: Path, tmp_path: Path) -> None:
    save(load(file), tmp_path / "again.safetensors")
    assert sha256(file) == sha256(tmp_path / "again.safetensors")


def test_fingerprint_depends_on_weights_only() -> None:
    assert fingerprint(made(1)) == fingerprint(made(1)) != fingerprint(made(2))
    laid = made(1)
    laid.module.to(memory_format=torch.channels_last)
    assert fingerprint(laid) == fingerprint(made(1))


def test_a_module_of_the_users_own_needs_network(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    path = tmp_path / "own.safetensors"
    save(Classifier(net, classes=3, outputs="logits"), path)
    refuses(path, "Sequential", "network=")
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    kept = other[1].weight.detach().clone()
    assert torch.equal(load(path, network=other).module[1].weight, net[1].weight)
    assert torch.equal(other[1].weight, kept)  # a copy was filled


def test_network_by_name(file: Path) -> None:
    rewrite(file, architecture={"name": None, "class": "Old"})
    refuses(file, "Old")
    wide = file.with_name("wide.safetensors")
    save(made(width=1.0), wide)
    rewrite(wide, architecture={"name": None, "class": "Old"})
    assert fingerprint(load(wide, network="digits-cnn")) == fingerprint(made(width=1.0))


def test_tied_weights(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))
    net[2].weight = net[1].weight
    save(Classifier(net, classes=4), tmp_path / "t.safetensors")
    back = load(tmp_path / "t.safetensors", network=net)
    assert torch.equal(back.module[2].weight, net[1].weight)


def test_a_third_partys_network_is_rebuilt_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(component, "find", lambda kind, name: TheirNetwork)
    monkeypatch.setattr(component, "names", lambda kind: ["theirs"])
    net = create("theirs", image_shape=(1, 2, 2), classes=3, scale=2)
    save(Classifier(net, classes=3), tmp_path / "m.safetensors")
    back = load(tmp_path / "m.safetensors").module
    assert isinstance(back, TheirNetwork)
    assert back.scale == 2


class TheirNetwork(nn.Module):
    """A plug-in's network: keeps no settings of its own."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, *, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.last = nn.Linear(image_shape[1] * image_shape[2], classes)


# What can be wrong with a file


def test_missing_and_folder(tmp_path: Path) -> None:
    refuses(tmp_path / "no.safetensors", "no such file")
    refuses(tmp_path / "no.pt", "no such file")
    refuses(tmp_path, "folder")


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.99])
def test_truncated(file: Path, keep: float) -> None:
    raw = file.read_bytes()
    file.write_bytes(raw[: int(keep if keep in (0, 4, 100) else keep * len(raw))])
    refuses(file, "damaged")


def test_not_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"<html>not found</html>" * 40)
    refuses(path, "not a safetensors file")


def test_foreign_safetensors(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors")
    refuses(tmp_path / "x.safetensors", "without our header")


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_damaged_header(tmp_path: Path, text: str) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors", metadata={"mithridate": text})
    refuses(tmp_path / "x.safetensors", "header is damaged")


UNKNOWN = {"name": "resnet81", "settings": {"image_shape": [1, 8, 8], "classes": 10}}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"format": 99}, "format 99"),
        ({"kind": "training"}, "training run"),
        ({"architecture": UNKNOWN}, "did you mean 'resnet18'"),
        ({"architecture": {"name": "digits-cnn"}}, "incomplete"),
        ({"architecture": 3}, "incomplete"),
        ({"class_names": None}, "incomplete"),
        ({"class_names": ["a"]}, "1 class names for 10 outputs"),
        ({"class_names": [*NAMES, "more"]}, "11 class names for 10 outputs"),
        ({"bounds": [1, 0]}, "bounds"),
        ({"bounds": [1]}, "incomplete"),
        ({"outputs": "odds"}, "odds"),
    ],
)
def test_wrong_header(file: Path, changes: dict[str, Any], word: str) -> None:
    rewrite(file, **changes)
    refuses(file, word)


@pytest.mark.parametrize(
    "values",
    [
        {"image_shape": [1, 8, 8], "classes": 10, "width": 1.0},
        {"image_shape": [1, 8, 8], "classes": 11, "width": 0.5},
        {"image_shape": [3, 8, 8], "classes": 10, "width": 0.5},
        {"image_shape": [1, 80_000, 80_000], "classes": 10**9, "width": 64},  # would fill memory
        {"image_shape": [1, 8, 8], "classes": 10, "width": 1e308},
        {"image_shape": [1, 8, 8], "classes": 10, "depth": 3},
        {"image_shape": "abc", "classes": 10},
        {"image_shape": None, "classes": 10},
    ],
)
def test_weights_of_another_shape(file: Path, values: dict[str, Any]) -> None:
    rewrite(file, architecture={"name": "digits-cnn", "settings": values})
    refuses(file)


def test_weights_of_another_network(file: Path) -> None:
    refuses(file, "does not fit Linear", network=nn.Linear(3, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    model = made()
    with torch.no_grad():
        next(model.module.parameters())[0] = value
    save(model, tmp_path / "nan.safetensors")
    refuses(tmp_path / "nan.safetensors", "NaN", kind=NothingAssessedError)


def test_no_such_device(file: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    with pytest.raises(InputError, match="device 'cuda' cannot be used"):
        load(file, device="cuda")


# What can be wrong when writing


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot write"):
        save(made(), tmp_path / "file" / "m.safetensors")


def test_a_full_disk_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        save(made(3), file)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


def test_an_interrupt_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage.os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        save(made(), tmp_path / "m.safetensors")
    assert os.listdir(tmp_path) == []


def test_a_record_that_is_not_json(tmp_path: Path) -> None:
    model = made()
    model.info["x"] = torch.ones(1)
    with pytest.raises(CheckpointError, match="not JSON"):
        save(model, tmp_path / "m.safetensors")


@given(st.sampled_from(["pt", "safetensors"]), st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_is_one_clear_error_or_none(ending: str, data: st.DataObject) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"m.{ending}"
        if ending == "pt":
            torch.save(net.state_dict(), path)
        else:
            save(Classifier(net, classes=2), path)
        raw = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(raw)
        message = ""
        try:
            load(path, network=net)
        except (CheckpointError, NothingAssessedError) as error:
            message = str(error)
        assert "\n" not in message
