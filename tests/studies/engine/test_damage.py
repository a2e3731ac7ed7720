"""A study whose cache is damaged, or whose disk is full: found, said, and mended."""

from __future__ import annotations

import itertools
import json
import shutil

import pytest

pytestmark = pytest.mark.timeout(600)


def test_flipped_bytes_are_found_made_again_and_said(courses, nurseries, reference, tmp_path):
    expected, keys, _ = reference
    cache = tmp_path / "cache"
    assert nurseries[0].start(tmp_path / "a", cache).end() == 0
    before = courses.units(cache)
    models = courses.of_kind(cache, "model")
    leaves = courses.of_kind(cache, "evasion")
    stamped = courses.of_kind(cache, "backdoor")[0]  # a damaged unit.json may not even be JSON
    courses.flip(leaves[0] / "images.parquet")
    courses.flip(leaves[1] / "unit.json")
    (stamped / "pictures.safetensors").unlink()
    damaged = {leaves[0].name, leaves[1].name, stamped.name}
    # a damaged model shows when something is made of it again
    needed = json.loads((leaves[2] / "unit.json").read_text())["inputs"]["adversarial"]
    remake = {leaves[2].name, needed}
    base = cache / "store" / "v2"
    used = json.loads((base / needed[:2] / needed / "unit.json").read_text())["inputs"]["model"]
    assert used in {model.name for model in models}
    courses.flip(base / used[:2] / used / "model.safetensors")
    for key in remake:
        shutil.rmtree(base / key[:2] / key)

    run = nurseries[0].start(tmp_path / "a", cache)
    assert run.end() == 0, run.stderr
    damage = {line for line in run.stderr.splitlines() if "was damaged in the cache" in line}
    assert {line.split()[2] for line in damage} == {key[:12] for key in damaged | {used}}
    now = courses.units(cache)
    assert {key for key in keys if now[key] != before[key]} == damaged | remake | {used}
    courses.whole(cache, keys)
    assert courses.records(tmp_path / "a") == expected


@pytest.mark.parametrize(
    ("remade", "largest"),
    [((), 6000), (("evasion", "bias-maps"), 4000)],
    ids=["from the start", "with small units made"],
)
def test_a_full_disk_is_said_with_the_bytes_needed(
    courses, nurseries, reference, tmp_path, remade, largest
):
    """What is there stays, nothing half is left, and with room the run goes on."""
    expected, keys, _ = reference
    cache = tmp_path / "cache"
    if remade:
        assert nurseries[0].start(tmp_path / "a", cache).end() == 0
        for folder in itertools.chain(*(courses.of_kind(cache, kind) for kind in remade)):
            shutil.rmtree(folder)
    before = courses.units(cache)
    run = nurseries[0].start(tmp_path / "a", cache, largest=largest)
    assert run.end() == 4
    lines = run.stderr.splitlines()
    assert any("bytes needed" in line and "bytes free" in line for line in lines), run.stderr
    assert f"no file larger than {largest:,} allowed" in run.stderr
    assert any("make room" in line for line in lines)
    assert not any("Traceback" in line for line in lines)
    now = courses.units(cache)
    assert before.items() <= now.items()
    assert len(now) < len(keys)
    base = cache / "store" / "v2"
    assert not list((base / "tmp").iterdir())
    assert not list((base / "locks").iterdir())
    run = nurseries[0].start(tmp_path / "a", cache)
    assert run.end() == 0, run.stderr
    assert now.items() <= courses.units(cache).items()
    courses.whole(cache, keys)
    assert courses.records(tmp_path / "a") == expected
