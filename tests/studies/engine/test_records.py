"""The records of a study: a function of its cells' products."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from mithridate.errors import InputError
from mithridate.networks.checkpoint import fingerprint
from mithridate.reports.folder import read, write
from mithridate.reports.schema import Cell, Study
from mithridate.studies.engine.plan import plan_of
from mithridate.studies.engine.records import assemble, header
from mithridate.studies.engine.run import Failure, Ran, run
from mithridate.studies.engine.store import Store
from mithridate.studies.engine.tables import COLUMNS, read_table, write_table
from mithridate.studies.engine.workers import InProcess

TEXT = """
question = "What is left?"
[options.attack]
weak = { attack = { name = "fgsm", eps = 0.01 } }
strong = { attack = { name = "fgsm", eps = 0.3 } }
[matrix.evasion]
measure = "evasion"
title = "Attacks"
note = "A note."
set = { samples = 30 }
axes = { attack = ["strong", "weak"], seed = [0] }
[matrix.backdoor]
measure = "backdoor"
set.poison = { name = "badnets", trigger = "single-pixel", source = 8, target = 9, count = 60 }
[matrix.clean]
measure = "accuracy"
[doubts]
small = "Two epochs."
[columns]
asr = { title = "Ours" }
[[finding]]
text = "{mean} % are left."
matrix = "evasion"
value = "accuracy_left"
where = { attack = "strong" }
[[compare]]
title = "Weak against strong"
matrix = "evasion"
value = "accuracy_left"
first = { attack = "weak" }
second = { attack = "strong" }
"""


@pytest.fixture
def plan(study):
    text = TEXT.replace('question = "What is left?"', "")
    return plan_of(study(text, {"question": "What is left?"}))


@pytest.fixture
def ran(plan, lab):
    with InProcess(lab.root) as crew:
        return run(plan, lab.store, crew)


def bare(records):
    """All but the timings, in a form that can be compared."""
    pictures = {name: array.tobytes() for name, array in records.pictures}
    return records.study, records.cells, records.images.to_pydict(), pictures


def test_rows_hold_what_the_units_measured(plan, ran, lab):
    records = assemble(plan, lab.store, ran, command="mithridate run small.toml")
    assert [row["id"] for row in records.cells] == [
        *("evasion/0000", "evasion/0001", "backdoor/0000", "clean/0000"),
    ]
    for row, (cell, leaf) in zip(records.cells, plan.leaves, strict=True):
        assert row["status"] == "done"
        assert row["axes"] == cell.labels
        assert row["unit"] == leaf.key
        assert row["values"] == lab.values(leaf)
        Cell.model_validate(row)
    assert records.cells[0]["axes"] == {"attack": "strong", "seed": 0}
    assert [d["id"] for d in records.cells[0]["doubts"]] == ["few-images"]


def test_the_study(plan, ran, lab):
    records = assemble(plan, lab.store, ran, command="mithridate run small.toml")
    study = records.study
    Study.model_validate(study)
    assert (study["status"], study["command"]) == ("complete", "mithridate run small.toml")
    assert study["matrices"][0] == {
        "name": "evasion",
        "title": "Attacks",
        "measure": "evasion",
        "note": "A note.",
        "axes": {"attack": ["strong", "weak"], "seed": [0]},
    }
    assert study["matrices"][1]["title"] == "backdoor"
    (described,) = study["models"]
    assert (described["role"], described["name"]) == ("model", "trained here")
    assert described["sha256"] == fingerprint(lab.open(plan.leaves[3][1].model))
    assert (study["data"]["n"], study["data"]["image_shape"]) == (360, [1, 8, 8])
    left = records.cells[0]["values"]["accuracy_left"]
    assert study["finding"] == f"{100 * left['value']:.4g} % are left."
    assert set(map(tuple, study["class_names"].values())) == {tuple("0123456789")}
    assert study["doubts"] == [{"id": "small", "text": "Two epochs."}]
    assert (study["columns"]["asr"]["title"], study["columns"]["asr"]["unit"]) == ("Ours", "share")
    assert study["columns"]["accuracy_left"]["title"] == "Accuracy left"
    assert {view["matrix"] for view in study["views"]} == {"evasion", "backdoor", "clean"}
    (compared,) = study["comparisons"]
    assert compared["difference"] >= 0
    assert compared["paired"] is not None
    assert study["environment"]["threads"] == 1


def test_images_of_every_cell_in_one_table(plan, ran, lab):
    table = assemble(plan, lab.store, ran, command="").images
    assert table.column_names == ["cell", *COLUMNS.names]
    cells = table["cell"].cast(pa.string()).to_numpy(zero_copy_only=False)
    for cell, leaf in plan.leaves:
        if cell.matrix == "clean":
            continue
        own = read_table(lab.store.folder(leaf.key) / "images.parquet").select(COLUMNS.names)
        assert table.filter(pa.array(cells == cell.id)).drop(["cell"]).equals(own.cast(COLUMNS))
    assert (cells == "evasion/0000").sum() == 30
    left = np.asarray(table["predicted"])[:30] == np.asarray(table["label"])[:30]
    row = lab.values(plan.leaves[0][1])
    assert left.sum() == row["accuracy_left"]["k"]


def test_the_same_products_give_the_same_records(plan, ran, lab, tmp_path):
    first = bare(assemble(plan, lab.store, ran, command="x"))
    again = Ran(seconds=dict.fromkeys(ran.seconds, 9.0))
    assert bare(assemble(plan, lab.store, again, command="x")) == first
    other = Store(tmp_path / "other")
    with InProcess(other.root) as crew:
        elsewhere = run(plan, other, crew)
    assert len(elsewhere.made) == len([u for u in plan.order if u.kind not in ("data", "poisoned")])
    assert bare(assemble(plan, other, elsewhere, command="x")) == first
    rows = assemble(plan, other, elsewhere, command="x").timings
    assert {row["unit"] for row in rows} == elsewhere.made
    assert not any(row["cached"] for row in rows)
    assert all(row["seconds"] > 0 for row in rows)
    rows = assemble(plan, other, Ran(), command="x").timings
    assert all(row["cached"] and row["seconds"] > 0 for row in rows)
    assert {tuple(row["cells"]) for row in rows if row["kind"] == "backdoor"} == {
        ("backdoor/0000",)
    }


def test_written_and_read_again(plan, ran, lab, tmp_path):
    records = assemble(plan, lab.store, ran, command="x")
    pictures = dict(records.pictures)
    write(tmp_path, records.study, records.cells, records.images, pictures, records.timings)
    found = read(tmp_path)
    assert [cell.id for cell in found.cells] == [row["id"] for row in records.cells]
    assert found.image_rows == len(records.images)
    assert len(found.images(["evasion/0001"])) == 30
    shown = found.arrays("backdoor/0000", ["confusion_clean"])["confusion_clean"]
    assert shown.sum() == 360
    assert np.trace(shown) == records.cells[2]["values"]["accuracy"]["k"]
    assert set(pictures) == {
        f"{cell.id}:{n}" for cell in found.cells for n in found.arrays(cell.id)
    }


def test_failed_and_not_run(plan, lab, tmp_path):
    store = Store(tmp_path / "empty")
    leaf = plan.leaves[0][1]
    records = assemble(plan, store, Ran(failed={leaf.key: Failure("no room", 4)}), command="")
    statuses = [row["status"] for row in records.cells]
    assert statuses == ["failed: no room", "not run", "not run", "not run"]
    assert [row["values"] for row in records.cells] == [{}] * 4
    assert records.study["status"] == "incomplete"
    assert (records.study["finding"], records.study["comparisons"]) == ("", [])
    assert len(records.images) == 0
    assert list(records.pictures) == []
    assert records.timings == []
    write(tmp_path / "out", records.study, records.cells, records.images, {}, records.timings)
    assert [cell.status for cell in read(tmp_path / "out").cells] == statuses


def test_what_is_known_before_the_run_is_a_study(plan):
    found = header(plan.spec, plan, "mithridate run small.toml")
    Study.model_validate(found)
    assert found["status"] == "incomplete"
    assert json.loads(json.dumps(found["spec"])) == found["spec"]
    assert "scales" not in found["spec"]


def test_the_hash_of_the_spec_follows_what_decides_the_cells(study):
    def hashed(text=TEXT, given=None):
        plan = plan_of(study(text.replace('question = "What is left?"', ""), given))
        return header(plan.spec, plan, "")["spec_sha256"]

    assert hashed() == hashed()
    assert hashed(given={"seed": 1}) != hashed()
    assert hashed(TEXT.replace("0.01", "0.02")) != hashed()


def test_a_finding_that_cannot_be_told_is_refused_before_the_run(study):
    text = TEXT.replace('question = "What is left?"', "").replace("{mean} %", "{maen} %")
    plan = plan_of(study(text))
    with pytest.raises(InputError, match="maen"):
        header(plan.spec, plan, "")


def test_tables_of_equal_content_have_equal_bytes(tmp_path):
    table = pa.table({"image": pa.array([1, 2], pa.int32()), "success": [True, None]})
    for name in ("a", "b"):
        write_table(tmp_path / name, table.slice(0))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_table(tmp_path / "a").equals(table)
