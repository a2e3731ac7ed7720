from __future__ import annotations

import json
import os
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pytest

from mithridate.errors import InputError, RunError
from mithridate.reports.folder import check_own, parts, read, replace, write


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_equal_input_gives_equal_bytes_and_reads_back(studies, tmp_path):
    one, two = studies.make(tmp_path / "a"), studies.make(tmp_path / "b")
    assert contents(one) == contents(two)
    record = read(one)
    assert [c.id for c in record.cells][:2] == ["evasion/0000", "evasion/0001"]
    assert len(record.cells) == 29
    assert list(record.cells[0].axes) == ["data", "attack", "eps", "seed"]
    assert record.cells[0].values["success"].n == studies.IMAGES
    assert list(record.study.matrices[0].axes) == ["data", "attack", "eps", "seed"]
    assert next(iter(record.study.columns)) == "success"
    assert record.image_rows == 24 * studies.IMAGES
    again = tmp_path / "c"
    write(
        again, record.study, record.cells, record.images([c.id for c in record.cells]),
        {f"{c.id}:{n}": a for c in record.cells for n, a in record.arrays(c.id).items()},
        record.timings,
    )  # fmt: skip
    assert contents(again) == contents(one)


def test_lines_are_sorted_and_carry_no_time(folder):
    lines = (folder / "cells.jsonl").read_text().splitlines()
    assert len(lines) == 29
    for line in lines:
        raw = json.loads(line)
        assert list(raw) == sorted(raw)
        assert "seconds" not in line


def test_images_and_arrays_come_for_the_cells_asked_for(folder, studies):
    record = read(folder)
    table = record.images(["evasion/0003", "evasion/0001"])
    assert set(table["cell"].to_pylist()) == {"evasion/0001", "evasion/0003"}
    assert table.num_rows == 2 * studies.IMAGES
    assert record.images([]).num_rows == 0
    assert set(record.arrays("badnets/0000", ["trigger"])) == {"trigger"}
    assert record.arrays("evasion/0000") == {}
    assert record.has_arrays("badnets/0001")
    assert not record.has_arrays("badnets/0001", ["grid_clean"])
    assert np.isnan(record.arrays("badnets/0000")["trigger"]).any()


def test_files_of_an_earlier_run_go(studies, folder):
    write(folder, studies.study(), studies.evasion(0)[0])
    assert sorted(os.listdir(folder)) == ["cells.jsonl", "study.json"]
    assert read(folder).images(["evasion/0000"]) is None


def one_cell(studies, **more):
    return studies.evasion(0)[0][0] | more


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"matrix": "other"}, "is of no matrix"),
        ({"values": {"x": float("nan")}}, "values"),
        ({"status": 3}, "status"),
        ({"extra": 1}, "extra"),
    ],
)
def test_cells_that_do_not_fit_are_named(studies, tmp_path, change, says):
    with pytest.raises(InputError, match=says):
        write(tmp_path, studies.study(), [one_cell(studies, **change)])
    assert os.listdir(tmp_path) == []


def test_parts_that_do_not_fit_together(studies, tmp_path):
    cell = one_cell(studies)
    with pytest.raises(InputError, match="there twice"):
        write(tmp_path, studies.study(), [cell, cell])
    with pytest.raises(InputError, match="belongs to no cell"):
        write(tmp_path, studies.study(), [cell], pictures={"else:trigger": np.zeros((1, 2, 2))})
    with pytest.raises(InputError, match="needs the column image"):
        write(tmp_path, studies.study(), [cell], pa.table({"cell": ["evasion/0000"]}))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("study.json", b"{", "is not JSON"),
        ("study.json", b"[]", "schema None"),
        ("study.json", b'{"schema": 9}', "schema 9"),
        ("study.json", b'{"schema": 1}', "Field required"),
        ("cells.jsonl", b'{"id": 1}\n', "cells.jsonl, line 1"),
        ("cells.jsonl", None, "has no cells.jsonl"),
        ("timings.jsonl", b"x\n", "timings.jsonl, line 1"),
    ],
)
def test_broken_text_is_one_line(folder, name, content, says):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["images.parquet", "pictures.safetensors"])
def test_broken_files_are_named(folder, name):
    (folder / name).write_bytes(b"not that")
    record = read(folder)
    ask = {"images.parquet": record.images, "pictures.safetensors": record.arrays}[name]
    with pytest.raises(InputError, match=f"{name} is damaged"):
        ask("badnets/0000")


def test_a_folder_that_cannot_be_written(studies, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be made"):
        studies.make(tmp_path / "file")
    (tmp_path / "study" / "cells.jsonl").mkdir(parents=True)
    with pytest.raises(RunError, match=r"cells\.jsonl cannot be written"):
        studies.make(tmp_path / "study")
    assert not (tmp_path / "study" / "study.json").exists()


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


def test_a_record_of_the_first_form_goes_when_a_study_is_written(studies, folder):
    for name in ("record.json", "arrays.npz"):
        (folder / name).write_text("{}")
    studies.make(folder)
    assert not {"record.json", "arrays.npz"} & set(os.listdir(folder))


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ({"k": 300}, "k is at most n"),
        ({"value": 0.9}, "value is k/n"),
        ({"low": 0.6}, "outside its interval"),
    ],
)
def test_a_share_agrees_with_itself(studies, share, message):
    cell = one_cell(studies)
    cell["values"] = {"success": studies.share(100, 200) | share}
    with pytest.raises(InputError, match=message):
        parts(studies.study(), [cell])


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, ""),
        ({"cells.jsonl": "", "images.parquet": ""}, ""),  # cut off before study.json
        ({".study.json.1.part": ""}, ""),
        ({"study.json": '{"name": "attack", "spec_sha256": "0"}', "note.txt": ""}, ""),
        ({"record.json": "", "report.html": ""}, ""),  # of version 0.1.0
        ({"study.json": '{"name": "audit", "spec_sha256": "0"}'}, "holds the report of 'audit'"),
        ({"study.json": "precious", "cells.jsonl": ""}, "holds cells.jsonl, which is no report's"),
        ({"images.parquet": ""}, "holds images.parquet"),
        ({"cat.png": "", "dog.png": ""}, "holds cat.png"),
    ],
)
def test_a_report_goes_into_a_folder_of_its_own(tmp_path, files, says):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    refused = pytest.raises(InputError, match=says) if says else nullcontext()
    with refused:
        check_own(tmp_path, "attack")
