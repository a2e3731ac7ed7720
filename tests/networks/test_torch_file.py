"""State dicts in `.pt` files: harmless ones load, all others are refused before torch sees them."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mithridate.classifier import Classifier
from mithridate.errors import CheckpointError
from mithridate.networks.base import create
from mithridate.networks.checkpoint import fingerprint, load
from mithridate.rng import rng

SHAPE = (1, 8, 8)


def refuses(path: Path, *words: str, kind: type[Exception] = CheckpointError, **how: Any) -> str:
    with pytest.raises(kind) as caught:
        load(path, **how)
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in (path.name, *words)), text
    return text


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
    refuses(tmp_path / "a.pt", "network=", network="digits-cnn")
    refuses(tmp_path / "a.pt", "does not fit", network=nn.Linear(2, 2))


def test_views_share_a_storage(tmp_path: Path) -> None:
    base = torch.rand(6, 4)
    torch.save({"weight": base[2:5].t().t(), "bias": base[0, :3]}, tmp_path / "v.pt")
    back = load(tmp_path / "v.pt", network=nn.Linear(4, 3))
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
