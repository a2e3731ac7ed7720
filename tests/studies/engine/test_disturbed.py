"""A study that is killed, damaged or out of room, and goes on: the records do not show it."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import signal
import time

import pytest

pytestmark = pytest.mark.timeout(600)

TIMES = 20


def test_the_study_has_some_forty_units(reference):
    assert 35 <= len(reference[1]) <= 45


def test_killed_and_resumed_twenty_times(courses, nurseries, reference, tmp_path):
    expected, keys, seconds = reference
    cache, draw = tmp_path / "cache", random.Random(7)
    beat = seconds / len(keys)
    killed, before, stages = 0, {}, []
    for number in range(TIMES):
        run = nurseries[0].start(tmp_path / "a", cache)
        # a share of the whole further each time, and the last few while records are written
        courses.wait_for(cache, min(len(keys), round(len(keys) * number / (TIMES - 3))), run)
        time.sleep(draw.uniform(0, 2 * beat))
        code = run.kill()
        assert code in (0, -signal.SIGKILL), run.stderr
        killed += code == -signal.SIGKILL
        now = courses.units(cache)
        assert before.items() <= now.items()  # no finished unit was made again
        stages.append(len(now))
        before = now
    assert killed >= TIMES - 3  # one that came too late found the run at its end
    assert len(set(stages)) > 8, stages
    run = nurseries[0].start(tmp_path / "a", cache)
    assert run.end() == 0, run.stderr
    assert before.items() <= courses.units(cache).items()
    courses.whole(cache, keys)
    assert courses.records(tmp_path / "a") == expected


def test_two_runs_on_one_cache_killed_at_random(courses, nurseries, reference, tmp_path):
    expected, keys, seconds = reference
    cache, draw = tmp_path / "cache", random.Random(8)
    folders = tmp_path / "a", tmp_path / "b"
    runs = [
        nursery.start(folder, cache) for nursery, folder in zip(nurseries, folders, strict=True)
    ]
    before, killed = {}, 0
    for number in range(TIMES // 2):
        victim = draw.randrange(2)
        courses.wait_for(cache, round(len(keys) * number / (TIMES // 2)), runs[victim])
        time.sleep(draw.uniform(0, 2 * seconds / len(keys)))
        code = runs[victim].kill()
        assert code in (0, -signal.SIGKILL), runs[victim].stderr
        killed += code != 0
        now = courses.units(cache)
        assert before.items() <= now.items()
        before = now
        runs[victim] = nurseries[victim].start(folders[victim], cache)
    assert [run.end() for run in runs] == [0, 0], [run.stderr for run in runs]
    assert killed >= TIMES // 2 - 3
    assert before.items() <= courses.units(cache).items()
    courses.whole(cache, keys)
    assert courses.records(folders[0]) == courses.records(folders[1]) == expected


def test_ctrl_c_keeps_what_is_finished_and_says_what_to_type(
    courses, nurseries, reference, tmp_path
):
    expected, keys, _ = reference
    cache = tmp_path / "cache"
    run = nurseries[0].start(tmp_path / "a", cache)
    courses.wait_for(cache, 5, run)
    assert run.kill(signal.SIGINT) == 130
    assert "to go on: mithridate run stopped.toml --out out --workers 1 --quiet" in run.stderr
    study = json.loads((tmp_path / "a" / "out" / "study.json").read_text())
    assert study["status"] == "incomplete"
    before = courses.units(cache)
    assert 5 <= len(before) < len(keys)
    run = nurseries[0].start(tmp_path / "a", cache)
    assert run.end() == 0, run.stderr
    assert before.items() <= courses.units(cache).items()
    courses.whole(cache, keys)
    assert courses.records(tmp_path / "a") == expected


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
