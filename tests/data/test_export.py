"""A written set is read back to the same bytes, and is written as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import mithridate as mi
from mithridate.data import export
from mithridate.data.export import MANIFEST, export_set
from mithridate.errors import InputError, RunError

SHAPES = [(1, 5, 4), (3, 4, 6)]


def noise(count, shape=(1, 5, 4), seed=0, names=("a", "b", "ç")):
    pixels = torch.randint(256, (count, *shape), generator=mi.rng(seed), dtype=torch.uint8)
    labels = torch.arange(count) % len(names)
    return mi.ImageSet(pixels, labels, names)


def same(one, two):
    rows = range(len(one))
    return torch.equal(one.raw(rows), two.raw(rows)) and torch.equal(one.labels, two.labels)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_loads_again_as_the_same_bytes(tmp_path, shape) -> None:
    train, test = noise(30, shape), noise(7, shape, seed=1)
    export_set(tmp_path / "set", train, test)
    again = mi.load_data(str(tmp_path / "set"))
    for before, after in zip((train, test), again, strict=True):
        assert same(before, after)
        assert before.fingerprint() == after.fingerprint()
        assert after.class_names == ("a", "b", "ç")


def test_several_shards_and_row_groups_keep_the_order(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "SHARD", 10)
    monkeypatch.setattr(export, "ROWS", 4)
    train, test = noise(23), noise(10, seed=1)
    seen = []
    files = export_set(
        tmp_path / "set", train, test, progress=lambda done, total, _: seen.append((done, total))
    )
    assert sorted(files) == [
        "test-00000-of-00001.parquet",
        *(f"train-{k:05d}-of-00003.parquet" for k in range(3)),
    ]
    assert pq.ParquetFile(tmp_path / "set/train-00000-of-00003.parquet").num_row_groups == 3
    assert seen[-1] == (33, 33)
    assert seen == sorted(seen)
    again, _ = mi.load_data(str(tmp_path / "set"))
    assert same(train, again)


def test_the_manifest_names_the_files_by_their_hash(tmp_path) -> None:
    export_set(tmp_path / "set", noise(5), noise(5), manifest={"seed": 3})
    told = json.loads((tmp_path / "set" / MANIFEST).read_text())
    assert told["seed"] == 3
    assert len(told["files"]) == 2
    for name, sha256 in told["files"].items():
        assert hashlib.sha256((tmp_path / "set" / name).read_bytes()).hexdigest() == sha256


def test_the_same_set_gives_the_same_files(tmp_path) -> None:
    assert export_set(tmp_path / "a", noise(9), noise(9)) == export_set(
        tmp_path / "b", noise(9), noise(9)
    )


def test_an_empty_folder_is_filled_a_full_one_refused(tmp_path) -> None:
    place = tmp_path / "set"
    place.mkdir()
    export_set(place, noise(5), noise(5))
    held = {file.name: file.read_bytes() for file in place.iterdir()}
    with pytest.raises(InputError, match="set is not empty, and nothing is overwritten"):
        export_set(place, noise(6), noise(6))
    assert {file.name: file.read_bytes() for file in place.iterdir()} == held
    with pytest.raises(InputError, match="is a file: give a folder"):
        export_set(place / "test-00000-of-00001.parquet", noise(5), noise(5))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_stays_of_a_set_that_was_stopped(tmp_path, stop) -> None:
    def progress(done, total, _):
        if done > 256:
            raise stop

    wanted = KeyboardInterrupt if stop is KeyboardInterrupt else RunError
    with pytest.raises(wanted):
        export_set(tmp_path / "set", noise(600), noise(5), progress=progress)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (noise(5, names=("a", "b")), "other classes or image shapes"),
        (noise(5, (1, 4, 4)), "other classes or image shapes"),
    ],
)
def test_sets_that_do_not_go_together(tmp_path, test, said) -> None:
    with pytest.raises(InputError, match=said):
        export_set(tmp_path / "set", noise(5), test)
    assert not (tmp_path / "set").exists()


def test_other_channels(tmp_path) -> None:
    with pytest.raises(InputError, match="2 channels cannot be PNG"):
        export_set(tmp_path / "set", noise(5, (2, 4, 4)), noise(5, (2, 4, 4)))


def test_places_that_cannot_become_a_set_are_told_before_the_work(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    for place, said in (
        (tmp_path / "file" / "a" / "set", "file is no folder"),
        (tmp_path / "link", "link is a link"),
        (Path(), "is the folder you are in"),
    ):
        with pytest.raises(InputError, match=said):
            export.check_free(place)
    monkeypatch.setattr(export.os.path, "ismount", lambda place: Path(place).name == "empty")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="empty is a mount point"):
        export.check_free(tmp_path / "empty")
    monkeypatch.setattr(export.os, "access", lambda place, mode: False)
    with pytest.raises(InputError, match="may not be written to"):
        export.check_free(tmp_path / "a" / "set")


def test_a_disk_that_fails(tmp_path, monkeypatch) -> None:
    def refuse(*paths):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(export.os, "replace", refuse)
    with pytest.raises(RunError, match="cannot be written"):
        export_set(tmp_path / "set", noise(5), noise(5))
    assert not any(tmp_path.iterdir())
