from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from mithridate.errors import InputError
from mithridate.reports.schema import parse


def change(raw: dict[str, Any], path: str, value: Any) -> str:
    raw = copy.deepcopy(raw)
    at: Any = raw
    *way, last = path.split(".")
    for step in way:
        at = at[int(step) if step.isdigit() else step]
    at[last] = value
    return json.dumps(raw)


@pytest.mark.parametrize("name", ["mnist", "digits", "cifar"])
@pytest.mark.parametrize("kind", ["audit", "attack"])
def test_what_is_written_reads_back_the_same(fake, name, kind):
    record = parse(json.dumps(fake.raw(name, kind=kind)))
    text = record.to_json()
    assert parse(text) == record
    stored = json.loads(text)
    assert stored["schema"] == 1
    assert all("class" in row for row in stored["ranking"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("3", "no Mithridate record"),
        ('{"title": "a"}', "no Mithridate record"),
        ('{"schema": 2}', "schema 2, this version reads schema 1"),
        ('{"schema": true}', "schema True"),
        ('{"schema": 1}', "kind: Field required"),
    ],
)
def test_foreign_files_are_refused_in_one_line(text, said):
    with pytest.raises(InputError, match=said) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(InputError, match="not JSON"):
        parse(b"\xff\xfe\x00\x80")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("surplus", 1, "surplus: Extra"),
        ("verdict.p_value", 1.5, "verdict.p_value"),
        ("verdict.p_value", float("nan"), "verdict.p_value"),
        ("verdict.source", 10, "source is class 10, but there are 10 classes"),
        ("verdict.target", -1, "verdict.target"),
        ("verdict.region", [5, 5, 5, 9], "empty or outside"),
        ("verdict.region", [0, 0, 29, 9], "empty or outside"),
        ("backdoor.truth.region", [0, 9, 4, 2], "empty or outside"),
        ("backdoor.truth.target", 12, "truth.target"),
        ("model.clean_accuracy.k", 20000, "k is at most n"),
        ("model.clean_accuracy.value", 0.5, "value is k/n"),
        ("model.clean_accuracy.low", 0.999, "outside its interval"),
        ("data.class_names", [], "class_names"),
        ("data.image_shape", [2, 28, 28], "image_shape"),
        ("ranking.0.class", 11, "ranking is class 11"),
        ("distances.0.suspect", [1.0], "distances.suspect has 1 entries for 10 classes"),
        ("distances.0.clean", [1.0], "distances.clean has 1 entries"),
        ("pairs", [[None]], "pairs has 1 entries"),
        ("white_noise.distances", [], "white_noise.distances has 0 entries"),
        ("kind", "guess", "kind"),
        ("created", "yesterday", "created"),
    ],
)
def test_fields_that_do_not_fit_are_named(fake, path, value, said):
    with pytest.raises(InputError, match=said) as caught:
        parse(change(fake.raw(), path, value))
    assert "\n" not in str(caught.value)


def test_absent_parts_are_allowed(fake):
    raw = fake.raw()
    for name in ("verdict", "reference", "pairs", "backdoor", "white_noise"):
        raw[name] = None
    raw["distances"][0]["clean"] = None
    raw["distances"][0]["suspect"][3] = None
    assert parse(json.dumps(raw)).verdict is None
