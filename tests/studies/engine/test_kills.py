"""A study that is killed, starved of disk or damaged, and goes on: the records do not show it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(600)

STUDY = """
name = "kills"
title = "A study to be killed"
[defaults]
data = "digits"
network = "digits-cnn"
train = { epochs = 1 }
[options.poison]
"8→9" = { poison = { name = "badnets", trigger = "single-pixel", source = 8, target = 9, count = 60 } }
[options.attack]
fgsm = { attack = { name = "fgsm", eps = 0.2 } }
pgd = { attack = { name = "pgd", eps = 0.1, step_size = 0.05, steps = 2 } }
[matrix.evasion]
measure = "evasion"
set = { samples = 40 }
axes = { attack = ["fgsm", "pgd"], seed = [0, 1, 2, 3, 4, 5] }
[matrix.backdoor]
measure = "backdoor"
axes = { poison = ["8→9"], seed = [0, 1] }
[matrix.maps]
measure = "bias-maps"
set = { samples = 5, steps = 1 }
axes = { poison = ["8→9"], probe = ["data", "noise"] }
[scales.small]
[[compare]]
title = "One step and two"
matrix = "evasion"
value = "accuracy_left"
first = { attack = "fgsm" }
second = { attack = "pgd" }
[[finding]]
text = "{k} of {n} are left."
matrix = "evasion"
value = "accuracy_left"
"""
WORDS = ["run", "kills.toml", "--out", "out", "--workers", "1", "--quiet"]
RECORDS = ("study.json", "cells.jsonl", "images.parquet", "pictures.safetensors")
KILLS = 20

NURSERY = """
import json, os, resource, signal, sys
import pyarrow.parquet, torch
import mithridate.cli.main, mithridate.cli.publish, mithridate.reports.study.page
import mithridate.studies.engine.plan, mithridate.studies.engine.records
import mithridate.studies.engine.workers

print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    code = 70
    try:
        os.chdir(asked["folder"])
        os.environ["MITHRIDATE_CACHE"] = asked["cache"]
        if asked["largest"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["largest"], resource.RLIM_INFINITY))
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        code = mithridate.cli.main.main(asked["words"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
"""
"""Imports once, and has a child of its own for every run: what is killed is a process of the
command, without the seconds that its imports take."""


class Nursery:
    """Starts the command as a process, again and again."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def start(self, folder: Path, cache: Path, largest: int = 0) -> Run:
        folder.mkdir(exist_ok=True)
        (folder / "kills.toml").write_text(STUDY, encoding="utf-8")
        asked = {"folder": str(folder), "cache": str(cache), "largest": largest, "words": WORDS}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return Run(self, int(self.process.stdout.readline()), folder)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


class Run:
    """One process of the command."""

    def __init__(self, nursery: Nursery, pid: int, folder: Path) -> None:
        self.nursery, self.pid, self.folder = nursery, pid, folder

    def end(self) -> int:
        """Its exit code, negative where a signal ended it."""
        return int(self.nursery.process.stdout.readline())

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Its exit code after that signal."""
        os.kill(self.pid, number)  # ended or not, it is there until the nursery looks
        return self.end()

    @property
    def said(self) -> str:
        return (self.folder / "stderr").read_text()


@pytest.fixture(scope="module")
def nurseries():
    """Two, so that two runs can go on at once."""
    both = Nursery(), Nursery()
    yield both
    for one in both:
        one.close()


@pytest.fixture(scope="module")
def reference(nurseries, tmp_path_factory):
    """Records of a run that nothing disturbed, its units, and the seconds that it took."""
    place = tmp_path_factory.mktemp("reference")
    began = time.monotonic()
    run = nurseries[0].start(place / "a", place / "cache")
    assert run.end() == 0, run.said
    seconds = time.monotonic() - began
    return records(place / "a"), set(units(place / "cache")), seconds


def records(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "out" / name).read_bytes() for name in RECORDS}


def units(cache: Path) -> dict[str, tuple[int, int]]:
    """Key -> inode and time of the record of each finished unit."""
    found = {}
    for path in (cache / "store" / "v1").glob("??/*/unit.json"):
        status = path.stat()
        found[path.parent.name] = (status.st_ino, status.st_mtime_ns)
    return found


def whole(cache: Path, reference_units: set[str]) -> None:
    """Every unit is there, and nothing else is."""
    base = cache / "store" / "v1"
    assert set(units(cache)) == reference_units
    assert not list((base / "tmp").iterdir())
    assert not list((base / "locks").iterdir())
    folders = {path.name for path in base.iterdir()} - {"tmp", "locks"}
    assert folders == {key[:2] for key in reference_units}
    assert not list(base.rglob("*.part"))


def wait_for(cache: Path, count: int, run: Run) -> None:
    """Until so many units are finished, or the run has ended."""
    while len(units(cache)) < count and not ended(run.pid):
        time.sleep(0.003)


def ended(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def test_the_study_has_some_forty_units(reference):
    assert 35 <= len(reference[1]) <= 45


def test_killed_and_resumed_twenty_times(nurseries, reference, tmp_path):
    expected, keys, seconds = reference
    cache, draw = tmp_path / "cache", random.Random(7)
    beat = seconds / len(keys)
    killed, before, stages = 0, {}, []
    for number in range(KILLS):
        run = nurseries[0].start(tmp_path / "a", cache)
        # a share of the whole further each time, and the last few while records are written
        wait_for(cache, min(len(keys), round(len(keys) * number / (KILLS - 3))), run)
        time.sleep(draw.uniform(0, 2 * beat))
        code = run.kill()
        assert code in (0, -signal.SIGKILL), run.said
        killed += code == -signal.SIGKILL
        now = units(cache)
        assert before.items() <= now.items()  # no finished unit was made again
        stages.append(len(now))
        before = now
    assert killed >= KILLS - 3  # one that came too late found the run at its end
    assert len(set(stages)) > 8, stages
    run = nurseries[0].start(tmp_path / "a", cache)
    assert run.end() == 0, run.said
    assert before.items() <= units(cache).items()
    whole(cache, keys)
    assert records(tmp_path / "a") == expected


def test_two_runs_on_one_cache_killed_at_random(nurseries, reference, tmp_path):
    expected, keys, seconds = reference
    cache, draw = tmp_path / "cache", random.Random(8)
    folders = tmp_path / "a", tmp_path / "b"
    runs = [nursery.start(folder, cache) for nursery, folder in zip(nurseries, folders, strict=True)]
    before, killed = {}, 0
    for number in range(KILLS // 2):
        victim = draw.randrange(2)
        wait_for(cache, round(len(keys) * number / (KILLS // 2)), runs[victim])
        time.sleep(draw.uniform(0, 2 * seconds / len(keys)))
        code = runs[victim].kill()
        assert code in (0, -signal.SIGKILL), runs[victim].said
        killed += code != 0
        now = units(cache)
        assert before.items() <= now.items()
        before = now
        runs[victim] = nurseries[victim].start(folders[victim], cache)
    assert [run.end() for run in runs] == [0, 0], [run.said for run in runs]
    assert killed >= KILLS // 2 - 3
    assert before.items() <= units(cache).items()
    whole(cache, keys)
    assert records(folders[0]) == records(folders[1]) == expected


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(nurseries, reference, tmp_path):
    expected, keys, _ = reference
    cache = tmp_path / "cache"
    run = nurseries[0].start(tmp_path / "a", cache)
    wait_for(cache, 5, run)
    assert run.kill(signal.SIGINT) == 130
    assert "to go on: mithridate run kills.toml --out out --workers 1 --quiet" in run.said
    base = cache / "store" / "v1"
    assert not list((base / "tmp").iterdir())
    assert not list((base / "locks").iterdir())
    study = json.loads((tmp_path / "a" / "out" / "study.json").read_text())
    assert study["status"] == "incomplete"
    before = units(cache)
    assert 5 <= len(before) < len(keys)
    run = nurseries[0].start(tmp_path / "a", cache)
    assert run.end() == 0, run.said
    assert before.items() <= units(cache).items()
    assert records(tmp_path / "a") == expected


def flip(path: Path) -> None:
    """Another bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def of_kind(cache: Path, kind: str) -> list[Path]:
    folders = sorted((cache / "store" / "v1").glob("??/*"))
    return [f for f in folders if json.loads((f / "unit.json").read_text())["kind"] == kind]


def test_flipped_bytes_are_found_made_again_and_said(nurseries, reference, tmp_path):
    expected, keys, _ = reference
    cache = tmp_path / "cache"
    assert nurseries[0].start(tmp_path / "a", cache).end() == 0
    before = units(cache)
    models = of_kind(cache, "model")
    leaves = of_kind(cache, "evasion")
    flip(leaves[0] / "images.parquet")
    flip(leaves[1] / "unit.json")
    (of_kind(cache, "backdoor")[0] / "pictures.safetensors").unlink()
    damaged = {leaves[0].name, leaves[1].name, of_kind_name(cache, "backdoor")}
    # a damaged model shows when something is made of it again
    needed = json.loads((leaves[2] / "unit.json").read_text())["inputs"]["adversarial"]
    remake = {leaves[2].name, needed}
    base = cache / "store" / "v1"
    used = json.loads((base / needed[:2] / needed / "unit.json").read_text())["inputs"]["model"]
    assert used in {model.name for model in models}
    flip(base / used[:2] / used / "model.safetensors")
    for key in remake:
        (base / key[:2] / key / "unit.json").unlink()
        for path in (base / key[:2] / key).iterdir():
            path.unlink()
        (base / key[:2] / key).rmdir()

    run = nurseries[0].start(tmp_path / "a", cache)
    assert run.end() == 0, run.said
    said = {line for line in run.said.splitlines() if "was damaged in the cache" in line}
    assert {line.split()[2] for line in said} == {key[:12] for key in damaged | {used}}
    now = units(cache)
    made = {key for key in keys if now[key] != before[key]}
    assert made == damaged | remake | {used}
    whole(cache, keys)
    assert records(tmp_path / "a") == expected


def of_kind_name(cache: Path, kind: str) -> str:
    return of_kind(cache, kind)[0].name


def test_a_full_disk_is_said_with_the_bytes_needed(nurseries, reference, tmp_path):
    expected, keys, _ = reference
    cache = tmp_path / "cache"
    run = nurseries[0].start(tmp_path / "a", cache, largest=6000)
    assert run.end() == 4
    lines = run.said.splitlines()
    assert any("bytes needed" in line and "bytes free" in line for line in lines), run.said
    assert any("make room" in line for line in lines)
    assert not any("Traceback" in line for line in lines)
    before = units(cache)
    assert len(before) < len(keys)
    base = cache / "store" / "v1"
    assert not list((base / "tmp").iterdir())
    assert not list((base / "locks").iterdir())
    run = nurseries[0].start(tmp_path / "a", cache)
    assert run.end() == 0, run.said
    assert before.items() <= units(cache).items()
    whole(cache, keys)
    assert records(tmp_path / "a") == expected


def test_a_disk_that_fills_up_in_the_middle(nurseries, reference, tmp_path):
    """Small units are made, larger ones are not; what is there stays."""
    expected, keys, _ = reference
    cache = tmp_path / "cache"
    assert nurseries[0].start(tmp_path / "a", cache).end() == 0
    for folder in of_kind(cache, "evasion") + of_kind(cache, "bias-maps"):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    before = units(cache)
    largest = 4000
    run = nurseries[0].start(tmp_path / "a", cache, largest=largest)
    assert run.end() == 4
    assert f"no file larger than {largest:,} allowed" in run.said
    assert before.items() <= units(cache).items()
    run = nurseries[0].start(tmp_path / "a", cache)
    assert run.end() == 0, run.said
    whole(cache, keys)
    assert records(tmp_path / "a") == expected
