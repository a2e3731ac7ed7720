from __future__ import annotations

import json
import os

import numpy as np
import pytest

from mithridate.errors import InputError, RunError
from mithridate.reports import Record, read, write
from mithridate.reports.folder import replace


def test_write_then_read_returns_the_run(fake, tmp_path):
    record, arrays = read(fake.make(tmp_path / "deep" / "run"))
    assert record == Record.model_validate(fake.raw())
    for name, array in fake.arrays("mnist").items():
        np.testing.assert_allclose(arrays[name], array, rtol=1e-6, err_msg=name)
    assert sorted(path.name for path in (tmp_path / "deep" / "run").iterdir()) == [
        "arrays.npz",
        "record.json",
    ]


def test_a_run_without_arrays_has_none(fake, tmp_path):
    (fake.make(tmp_path) / "arrays.npz").unlink()
    assert read(tmp_path)[1] == {}


def test_missing_folder_and_record(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no record\.json"):
        read(tmp_path)
    (tmp_path / "record.json").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path)


def npy(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def pickled(path):
    np.savez(path, trigger=np.array([{"a": 1}], dtype=object))


def half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage", [npy, pickled, half, flipped, lambda path: path.write_bytes(b"PK no zip at all")]
)
def test_damaged_arrays_are_refused_in_one_line(fake, tmp_path, damage):
    damage(fake.make(tmp_path) / "arrays.npz")
    with pytest.raises(InputError, match="damaged or foreign") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("triger", np.zeros((1, 28, 28)), "did you mean 'trigger'"),
        ("trigger", np.zeros((28, 28)), "trigger must hold 1 x 28 x 28 numbers"),
        ("trigger", np.zeros((1, 28, 28), complex), "complex128"),
        ("examples_clean", np.zeros((2, 3, 28, 28)), "any x 1 x 28 x 28"),
        ("confusion_clean", np.zeros((9, 10)), "10 x 10"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(fake, tmp_path, name, array, said):
    record = Record.model_validate(fake.raw())
    with pytest.raises(InputError, match=said):
        write(tmp_path, record, {name: array})
    np.savez(tmp_path / "arrays.npz", **{name: array})
    (tmp_path / "record.json").write_text(json.dumps(fake.raw()))
    with pytest.raises(InputError, match=said):
        read(tmp_path)


def test_infinite_values_count_as_absent(fake, tmp_path):
    trigger = np.full((1, 28, 28), np.inf)
    write(tmp_path, Record.model_validate(fake.raw()), {"trigger": trigger})
    assert np.isnan(read(tmp_path)[1]["trigger"]).all()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunError, match="No space left on device"):
        replace(path, b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.read_bytes() == b"old"


def test_a_folder_that_cannot_be_made(fake, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be made"):
        write(tmp_path / "file" / "run", Record.model_validate(fake.raw()), {})
