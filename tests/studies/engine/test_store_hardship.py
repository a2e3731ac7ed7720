"""The store under hardship: processes killed, racing, and out of room."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
from toy_units import Total

from mithridate.errors import RunError
from mithridate.networks import storage
from mithridate.studies.engine.store import Store


def unit(number=0):
    return Total(plus=number)


def make(kept, one, values=None, files=None, seconds=0.25):
    with kept.draft(one) as draft:
        for name, data in (files or {}).items():
            (draft.folder / name).write_bytes(data)
        return draft.commit(values or {"sum": 1.5}, seconds)


@pytest.fixture
def kept(tmp_path):
    return Store(tmp_path / "store")


def forked(work):
    """What `work` returns in a process of its own, as text; "died" where it raised."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(into, str(work()).encode())
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return text or "died"


BIG = {"rows.parquet": b"PAR1" * 9, "more.json": b"{}", "big.json": b"7" * 200_000}


def work(kept, number):
    """One unit, as an executor makes it."""
    with kept.claim(unit(number).key):
        make(kept, unit(number), {"n": number}, BIG)


def test_killed_at_any_moment_nothing_partial_is_read(kept):
    """A process that makes units without end, killed 15 times; what is there is whole."""
    began = time.perf_counter()
    for number in range(3):
        work(kept, number)
    once, done, seed = (time.perf_counter() - began) / 3, 3, random.Random(0)
    for _ in range(15):
        out, into = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(into, b"1")
                for number in range(done, 10**9):
                    work(kept, number)
            finally:
                os._exit(1)
        os.read(out, 1)
        time.sleep(min(0.2, 4 * once * seed.random()))
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        os.close(out)
        os.close(into)
        while kept.has(unit(done).key):
            assert kept.check(unit(done).key).values == {"n": done}
            done += 1
    assert len(list(kept.entries())) == done
    left = len(list(kept.drafts.iterdir())) + len(list(kept.locks.folder.iterdir()))
    assert kept.sweep() == left
    assert list(kept.drafts.iterdir()) == list(kept.locks.folder.iterdir()) == []
    assert len(list(kept.entries())) == done


def traced(kept, number, stop):
    """Make a unit, killed before the `stop`-th line of the engine's; returns how many it ran."""
    count = 0

    def step(frame, event, arg):
        nonlocal count
        if "mithridate" not in frame.f_code.co_filename:
            return None
        if event == "line":
            count += 1
            if count == stop:
                os.kill(os.getpid(), signal.SIGKILL)
        return step

    def inner():
        sys.settrace(step)
        work(kept, number)
        sys.settrace(None)
        return count

    return forked(inner)


def test_killed_before_any_line_nothing_partial_is_read(kept):
    """Between two lines of the engine, every sixth."""
    work(kept, -2)
    lines = int(traced(kept, -1, -1))
    stops, finished = range(1, lines + 1, 6), 0
    for stop in stops:
        assert traced(kept, stop, stop) == "died"
        if kept.has(unit(stop).key):
            assert kept.check(unit(stop).key).values == {"n": stop}
            finished += 1
    assert 0 < finished < len(stops) / 2
    assert len(list(kept.entries())) == 2 + finished
    assert kept.sweep() > len(stops) / 2
    assert list(kept.drafts.iterdir()) == list(kept.locks.folder.iterdir()) == []
    assert len(list(kept.entries())) == 2 + finished


def test_two_processes_make_each_unit_once(kept, tmp_path):
    def race(name):
        made = []
        for number in range(50):
            one = unit(number)
            while not kept.has(one.key):
                held = kept.claim(one.key)
                if held is None:
                    time.sleep(0.001)
                    continue
                with held:
                    if not kept.has(one.key):
                        make(kept, one, {"by": name})
                        made.append(number)
        (tmp_path / name).write_text(json.dumps(made))

    pids = []
    for name in ("one", "two"):
        pid = os.fork()
        if pid == 0:
            try:
                race(name)
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one", "two"))
    assert sorted(one + two) == list(range(50))
    for name, made in (("one", one), ("two", two)):
        assert all(kept.check(unit(n).key).values == {"by": name} for n in made)
    assert kept.busy() == {}


def message(work):
    """The RunError that `work` raises, as the user reads it."""
    with pytest.raises(RunError) as caught:
        work()
    assert caught.value.exit_code == 4
    return str(caught.value)


def limited(limit, work):
    def inner():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return message(work)

    return forked(inner)


def test_a_full_disk_says_the_bytes(kept):
    def by_storage():
        with kept.draft(unit()) as draft:
            storage.write(draft.folder / "a.json", b"1" * 12345)

    text = limited(2000, by_storage)
    assert "a.json: File too large: 12,345 bytes needed, " in text
    assert "bytes free, and no file larger than 2,000 allowed (ulimit -f)" in text
    assert "`mithridate cache trim`" in text
    text = limited(2000, lambda: make(kept, unit(), {"text": "x" * 5000}))
    assert "File too large: 5," in text
    assert "bytes needed" in text
    text = limited(2000, lambda: make(kept, unit(), files={"a.json": b"1" * 12345}))
    assert "File too large: 2,000 bytes or more needed, " in text
    assert "bytes needed, " in limited(2, lambda: kept.claim("k"))
    assert list(kept.drafts.iterdir()) == list(kept.locks.folder.iterdir()) == []
    assert not kept.has(unit().key)
    assert make(kept, unit()).values


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_small_disk_says_the_bytes_and_works_again_with_room(small_disk):
    kept, ballast = Store(small_disk / "store"), small_disk / "ballast"
    make(kept, unit(1))
    free = shutil.disk_usage(small_disk).free
    ballast.write_bytes(b"0" * (free - 24576))

    def by_storage():
        with kept.draft(unit()) as draft:
            storage.write(draft.folder / "a.json", b"1" * 54321)

    assert "No space left on device: 54,321 bytes needed, " in message(by_storage)
    text = message(lambda: make(kept, unit(), {"text": "x" * 54321}))
    assert "No space left on device: 54," in text
    assert "make room" in text
    assert list(kept.drafts.iterdir()) == []
    assert not kept.has(unit().key)
    ballast.unlink()
    assert make(kept, unit(), {"text": "x" * 54321}).values
    assert len(list(kept.entries())) == 2
