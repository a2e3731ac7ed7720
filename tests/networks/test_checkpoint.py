"""Checkpoints: what was saved comes back, and each kind of bad file is one clear line.

State dicts in `.pt` files: harmless ones load, all others are refused before torch sees them.
"""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import tempfile
import zipfile
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
from mithridate.models import open_model as load
from mithridate.networks import storage
from mithridate.networks.base import create
from mithridate.networks.checkpoint import fingerprint, save, sha256
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
    return json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["mithridate"])


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


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"<html>not found</html>" * 40)
    refuses(path, "not a safetensors file")
    save_file({"w": torch.ones(2)}, path)
    refuses(path, "names no architecture")
    for text in ("{", "[]", "3"):
        save_file({"w": torch.ones(2)}, path, metadata={"mithridate": text})
        refuses(path, "header is damaged")


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


# State dicts


class Evil:
    """Writes a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def net_of(seed: int = 0) -> nn.Module:
    return create("digits-cnn", image_shape=SHAPE, classes=10, rng=rng(seed))


def test_state_dict_loads(tmp_path: Path) -> None:
    model = Classifier(net_of(3), classes=10)
    for name, content in {
        "a.pt": model.module.state_dict(),
        "b.pth": {"state_dict": model.module.state_dict(), "model": 3},
        "c.pt": dict(model.module.named_parameters()),
    }.items():
        torch.save(content, tmp_path / name)
        back = load(tmp_path / name, network=net_of())
        assert fingerprint(back) == fingerprint(model)
        assert (back.classes, back.image_shape) == (10, SHAPE)
    refuses(tmp_path / "a.pt", "network=")
    refuses(tmp_path / "a.pt", "does not fit", network=nn.Linear(2, 2))


def test_views_share_a_storage(tmp_path: Path) -> None:
    base = torch.rand(6, 4)
    torch.save({"weight": base[2:5].t().t(), "bias": base[0, :3]}, tmp_path / "v.pt")
    back = load(tmp_path / "v.pt", network=nn.Linear(4, 3), classes=3)
    assert torch.equal(back.module.weight, base[2:5])


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.pkl"])
def test_a_pickle_that_wants_code_does_not_get_it(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    torch.save({"w": torch.ones(1), "evil": Evil(mark)}, tmp_path / name)
    refuses(tmp_path / name, "system", "run code", network=net_of())
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps(Evil(mark)))
    refuses(tmp_path / "bare.pkl", "bare pickle", network=net_of())
    torch.save(Evil(mark), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    refuses(tmp_path / "old.pt", "bare pickle", network=net_of())
    assert not mark.exists()


def test_a_later_pickle_protocol_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pt")
    repack(tmp_path / "a.pt", tmp_path / "b.pt", pickled=pickle.dumps(Evil(mark), protocol=4))
    refuses(tmp_path / "b.pt", "opcode", network=net_of())
    assert not mark.exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(net_of(), tmp_path / "module.pt")
    refuses(tmp_path / "module.pt", "DigitsCNN", network=net_of())


def test_no_state_dict(tmp_path: Path) -> None:
    for content in ([torch.ones(2)], {"w": 3}, torch.ones(3)):
        torch.save(content, tmp_path / "x.pt")
        refuses(tmp_path / "x.pt", "no state dict", network=net_of())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_and_exported_programs_are_refused(tmp_path: Path) -> None:
    scripted = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))
    scripted.save(str(tmp_path / "script.pt"))
    refuses(tmp_path / "script.pt", "TorchScript", network=nn.Linear(2, 2))
    torch.save({"w": torch.ones(1)}, tmp_path / "x.pt2")
    refuses(tmp_path / "x.pt2", "exported program", network=nn.Linear(2, 2))


def repack(
    source: Path, target: Path, *, pickled: bytes | None = None, how: int = zipfile.ZIP_STORED
) -> Path:
    """Copy an archive, with another pickle or compression."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", how) as new:
        for entry in old.infolist():
            content = old.read(entry)
            if pickled is not None and entry.filename.endswith("data.pkl"):
                content = pickled
            new.writestr(entry.filename, content)
    return target


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1000, 1000)}, tmp_path / "a.pt")
    bomb = repack(tmp_path / "a.pt", tmp_path / "b.pt", how=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 50_000
    refuses(bomb, "compressed", network=nn.Linear(2, 2))


def test_an_archive_above_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "a.pt")
    monkeypatch.setattr("mithridate.networks.torch_file.LIMIT", 4096)
    refuses(tmp_path / "a.pt", "larger than", network=nn.Linear(2, 2))
    bomb = repack(tmp_path / "a.pt", tmp_path / "b.pt", how=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr("mithridate.networks.torch_file.LIMIT", bomb.stat().st_size)
    refuses(bomb, "unpacks to", network=nn.Linear(2, 2))


def test_tensors_that_claim_more_than_their_storage(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1).expand(2, 2), "bias": torch.ones(2)}, tmp_path / "e.pt")
    refuses(tmp_path / "e.pt", "strides", network=nn.Linear(2, 2))
    torch.save({"weight": torch.ones(4).as_strided((3, 2), (1, 1))}, tmp_path / "s.pt")
    refuses(tmp_path / "s.pt", "strides", network=nn.Linear(2, 3))


def pickle_of(tmp_path: Path) -> tuple[Path, bytes]:
    torch.save({"weight": torch.ones(300, 2)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        return tmp_path / "a.pt", archive.read("a/data.pkl")


def test_a_storage_shorter_than_it_claims(tmp_path: Path) -> None:
    source, text = pickle_of(tmp_path)
    # 600 elements and the shape (300, 2) as two-byte integers: claim 60,000 and (30,000, 2)
    for old, new in ((600, 60_000), (300, 30_000)):
        was, now = (b"M" + n.to_bytes(2, "little") for n in (old, new))
        assert text.count(was) == 1
        text = text.replace(was, now)
    refuses(repack(source, tmp_path / "b.pt", pickled=text), "shorter", network=nn.Linear(2, 3))


def test_a_tensor_that_reaches_past_its_storage(tmp_path: Path) -> None:
    source, text = pickle_of(tmp_path)
    was, now = b"K\x02K\x01\x86", b"K\x03K\x01\x86"  # strides (2, 1) become (3, 1)
    assert text.count(was) == 1
    bad = repack(source, tmp_path / "b.pt", pickled=text.replace(was, now))
    refuses(bad, "past its storage", network=nn.Linear(2, 3))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_archive(tmp_path: Path, keep: float) -> None:
    torch.save({"weight": torch.ones(300, 2)}, tmp_path / "a.pt")
    raw = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(raw[: int(keep * len(raw))])
    refuses(tmp_path / "a.pt", "not a zip archive", network=nn.Linear(2, 2))


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("hello.txt", "hi")
    refuses(tmp_path / "a.pt", "data.pkl", network=nn.Linear(2, 2))


@pytest.mark.parametrize("text", [b"", b"junk", b"\x80\x02}", b"\x80\x02)R."])
def test_a_malformed_pickle(tmp_path: Path, text: bytes) -> None:
    source, _ = pickle_of(tmp_path)
    bad = repack(source, tmp_path / "b.pt", pickled=text)
    refuses(bad, network=nn.Linear(2, 2))
    assert io.BytesIO(bad.read_bytes()).read(2) == b"PK"


@given(st.sampled_from(["pt", "safetensors"]), st.data())
@settings(max_examples=150)
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
            load(path, network=net, image_shape=(1, 2, 2))
        except (CheckpointError, NothingAssessedError) as error:
            message = str(error)
        assert "\n" not in message
