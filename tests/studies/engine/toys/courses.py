"""Runs of a small study as processes that tests may kill, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

STUDY = """
name = "stopped"
title = "A study that is stopped"
[defaults]
data = "digits"
network = "digits-cnn"
train = { epochs = 1 }
[options.poison]
"8→9".poison = { name = "badnets", trigger = "single-pixel", source = 8, target = 9, count = 60 }
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
WORDS = ["run", "stopped.toml", "--out", "out", "--workers", "1", "--quiet"]
RECORDS = ("study.json", "cells.jsonl", "images.parquet", "pictures.safetensors")

NURSERY = """
import json, os, resource, signal, sys
import pyarrow.parquet, torch
import mithridate.cli.main, mithridate.cli.publish, mithridate.reports.page
import mithridate.studies.engine.plan, mithridate.studies.engine.records
import mithridate.studies.engine.workers
import mithridate.studies.parts

mithridate.studies.parts._revision = lambda: "0" * 40  # commits may come while tests run
print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    code = 70
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run by nohup
    try:
        os.chdir(request["folder"])
        os.environ["MITHRIDATE_CACHE"] = request["cache"]
        if request["largest"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest"], resource.RLIM_INFINITY))
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        code = mithridate.cli.main.main(request["words"])
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
        (folder / "stopped.toml").write_text(STUDY, encoding="utf-8")
        request = {"folder": str(folder), "cache": str(cache), "largest": largest, "words": WORDS}
        self.process.stdin.write(json.dumps(request) + "\n")
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
        with suppress(ProcessLookupError):  # it came to its end before
            os.kill(self.pid, number)
        return self.end()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()


def records(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "out" / name).read_bytes() for name in RECORDS}


def units(cache: Path) -> dict[str, tuple[int, int]]:
    """Key -> inode and time of the record of each finished unit."""
    records = {}
    for path in (cache / "store" / "v2").glob("??/*/unit.json"):
        status = path.stat()
        records[path.parent.name] = (status.st_ino, status.st_mtime_ns)
    return records


def whole(cache: Path, reference_units: set[str]) -> None:
    """Every unit is there, and nothing else is."""
    base = cache / "store" / "v2"
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


def flip(path: Path) -> None:
    """Another bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def of_kind(cache: Path, kind: str) -> list[Path]:
    folders = sorted((cache / "store" / "v2").glob("??/*"))
    return [f for f in folders if json.loads((f / "unit.json").read_text())["kind"] == kind]
