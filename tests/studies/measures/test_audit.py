"""An audit as a cell: the record of `studies.Audit`."""

from __future__ import annotations

import json

import pytest

import mithridate as mi
from mithridate.errors import InputError
from mithridate.networks.storage import read_tensors
from mithridate.studies import Audit, Planted, Subject
from mithridate.studies.kinds.calibration import inspector_of
from mithridate.studies.measures.audit import RECORD, AuditMeasure

PLAN = {
    "controls": 3,
    "samples": 10,
    "images": 4,
    "steps": 2,
    "grow_steps": 2,
    "pairs": 1,
    "control_epochs": 1,
}


def lasting(record):
    """A record without what differs from run to run, or says how it was made."""
    text = json.loads(json.dumps(record))
    for key in ("command", "environment", "seconds", "timings", "cost", "created", "stages"):
        text.pop(key, None)
    return without(text, "seconds")


def without(tree, name):
    if isinstance(tree, dict):
        return {key: without(value, name) for key, value in tree.items() if key != name}
    return [without(one, name) for one in tree] if isinstance(tree, list) else tree


def test_the_row_is_that_of_the_audit(lab, unit_of, poison, tmp_path, monkeypatch):
    monkeypatch.setenv("MITHRIDATE_CACHE", str(tmp_path / "one"))
    unit = unit_of(
        AuditMeasure,
        poison=poison,
        inspector={"name": "bias-maps", **PLAN},
        attack_images=20,
        noise_queries=100,
        audit_seed=2,
    )
    entry = lab.make(unit)
    train, test = mi.load_data("digits")
    poisoned = lab.open(unit.inputs["poisoned"])
    finding = Audit(inspector=inspector_of(PLAN), attack_images=20, noise_queries=100).run(
        Subject("trained here", lab.open(unit.inputs["model"])),
        train,
        test,
        planted=Planted(8, 9, poisoned.trigger),
        seed=2,
        cache=tmp_path / "two",
    )
    record = json.loads((entry.folder / RECORD).read_bytes())
    assert lasting(record) == lasting(finding.record)
    found = entry.values["values"]
    verdict, rates = finding.record["verdict"], finding.record["backdoor"]
    assert found["suspicious"] == verdict["suspicious"]
    assert found["p_value"] == verdict["p_value"]
    assert found["headline"] == verdict["headline"]
    assert found["accuracy"] == rates["clean_accuracy"]
    assert found["recovered_asr"] == rates["recovered_asr"]
    left = [attack["accuracy_left"]["k"] for attack in finding.record["attacks"]]
    assert found["accuracy_left"]["k"] == min(left)
    assert [d["id"] for d in entry.values["doubts"]] == [d["id"] for d in verdict["doubts"]]
    shown, _ = read_tensors(entry.folder / "pictures.safetensors")
    assert shown.keys() == finding.arrays.keys()


def test_references_are_files_and_part_of_the_key(lab, unit_of, tmp_path):
    plain = unit_of(AuditMeasure)
    path = tmp_path / "clean.safetensors"
    mi.save(lab.open(plain.inputs["model"]), path)
    unit = unit_of(AuditMeasure, references=[str(path)])
    assert unit.key != plain.key
    assert [one.kind for one in unit.inputs["references"]] == ["model-file"]
    given = unit_of(AuditMeasure, model=str(path), network=None, train=None)
    assert given.inputs["model"].kind == "model-file"
    with pytest.raises(InputError, match=r"(?i)no such file"):
        unit_of(AuditMeasure, references=[str(tmp_path / "none")])
