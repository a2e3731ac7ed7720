"""The store: whole or not there, whatever is killed, raced, filled or flipped."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mithridate
from mithridate.errors import RunError
from mithridate.networks import storage
from mithridate.studies.engine import store
from mithridate.studies.engine.entry import UNIT, Damaged, parsed, signed
from mithridate.studies.engine.store import Store

PACKAGE = str(Path(mithridate.__file__).parent)


def unit(number=0, kind="sum"):
    """What the store needs of a unit."""
    inputs = {"data": "0" * 64}
    spec = {"number": number}
    identity = {"kind": kind, "version": 3, "spec": spec, "inputs": inputs, "components": {"A": 1}}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return SimpleNamespace(kind=kind, key=key, identity=identity)


def make(kept, one, values=None, files=None, seconds=0.25):
    with kept.draft(one) as draft:
        for name, data in (files or {}).items():
            (draft.folder / name).write_bytes(data)
        return draft.commit(values or {"sum": 1.5}, seconds)


@pytest.fixture
def kept(tmp_path):
    return Store(tmp_path / "store")


FILES = {"arrays.safetensors": b"\x01" * 99, "rows.parquet": b"PAR1" * 9, "more.json": b"{}"}


def test_what_was_committed_is_read(kept):
    one = unit()
    assert not kept.has(one.key)
    wrote = make(kept, one, {"a": (1, 2), "b": {"c": None}}, FILES)
    assert kept.has(one.key)
    for entry in (wrote, kept.read(one.key), Store(kept.root).read(one.key)):
        assert entry.values == {"a": [1, 2], "b": {"c": None}}
        assert entry.folder == kept.root / "v2" / one.key[:2] / one.key
        assert (entry.key, entry.kind, entry.spec) == (one.key, "sum", {"number": 0})
        assert (entry.inputs, entry.components) == ({"data": "0" * 64}, {"A": 1})
        assert entry.version == 3
        assert entry.seconds == 0.25
        assert {name: part.bytes for name, part in entry.files.items()} == {
            name: len(data) for name, data in FILES.items()
        }
        assert (entry.folder / "rows.parquet").read_bytes() == FILES["rows.parquet"]
    assert list(kept.drafts.iterdir()) == []


def test_the_record_says_its_own_hash(kept):
    entry = make(kept, unit(), files=FILES)
    told = json.loads((entry.folder / UNIT).read_text())
    own = told.pop("sha256")
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    assert own == hashlib.sha256(text.encode()).hexdigest()
    assert told["schema"] == 2
    assert told["files"]["more.json"] == {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}


def test_the_same_work_is_the_same_bytes_but_for_its_time(tmp_path):
    one, other = Store(tmp_path / "a"), Store(tmp_path / "b")
    first = make(one, unit(), {"x": 1, "y": 2}, seconds=1.0)
    second = make(other, unit(), {"y": 2, "x": 1}, seconds=2.0)
    assert (first.folder / UNIT).read_bytes() == (second.folder / UNIT).read_bytes()
    assert (first.seconds, second.seconds) == (1.0, 2.0)
    (first.folder / "timing.json").write_text("{")
    assert one.read(first.key).seconds is None


@pytest.mark.parametrize("name", [UNIT, *FILES])
def test_a_flipped_byte_is_found(kept, name):
    entry = make(kept, unit(), files=FILES)
    path = entry.folder / name
    sound = path.read_bytes()
    for place in range(0, len(sound), 1 + len(sound) // 100):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x20]) + sound[place + 1 :])
        with pytest.raises(Damaged) as caught:
            kept.check(entry.key)
        assert caught.value.key == entry.key
        assert name in caught.value.reason
    path.write_bytes(sound)
    assert kept.check(entry.key).values == entry.values


@pytest.mark.parametrize("name", [UNIT, *FILES])
@pytest.mark.parametrize("harm", ["cut", "longer", "gone", "folder"])
def test_a_file_cut_lengthened_or_missing_is_found(kept, name, harm):
    entry = make(kept, unit(), files=FILES)
    path, sound = entry.folder / name, (entry.folder / name).read_bytes()
    path.unlink()
    if harm == "folder":
        path.mkdir()
    elif harm != "gone":
        path.write_bytes(sound[:-1] if harm == "cut" else sound + b" ")
    store._verified.cache_clear()
    with pytest.raises(Damaged, match=name):
        kept.read(entry.key)


def test_a_unit_in_anothers_place_is_found(kept):
    entry = make(kept, unit(1))
    other = unit(2).key
    shutil.copytree(entry.folder, kept.folder(other))
    with pytest.raises(Damaged, match="another unit's"):
        kept.read(other)


def test_damage_says_what_to_do_and_crosses_processes(kept):
    error = pickle.loads(pickle.dumps(Damaged("ab" * 32, "unit.json is not what was written")))
    assert isinstance(error, RunError)
    assert error.reason == "unit.json is not what was written"
    assert "cache verify --repair" in str(error)
    with pytest.raises(Damaged, match="No such file"):
        kept.read("0" * 64)


def test_files_are_hashed_once_in_a_process(kept, monkeypatch):
    entry = make(kept, unit(), files=FILES)
    store._verified.cache_clear()
    hashed = []
    whole = store.hashed
    monkeypatch.setattr(store, "hashed", lambda path: hashed.append(path.name) or whole(path))
    for _ in range(3):
        kept.read(entry.key)
        Store(kept.root).read(entry.key)
    assert sorted(hashed) == sorted(FILES)
    kept.check(entry.key)
    assert len(hashed) == 2 * len(FILES)


def test_a_damaged_unit_is_discarded_and_made_again(kept):
    entry = make(kept, unit())
    (entry.folder / UNIT).write_bytes(b"{}")
    kept.discard(entry.key)
    assert not kept.has(entry.key)
    assert not entry.folder.exists()
    kept.discard(entry.key)
    assert make(kept, unit()).values == entry.values


def test_where_another_was_first_its_copy_is_kept(kept):
    with kept.draft(unit()) as mine:
        theirs = make(Store(kept.root), unit(), seconds=7.0)
        assert mine.commit({"sum": 1.5}, 1.0).seconds == 7.0
    assert not mine.folder.exists()
    assert kept.read(theirs.key).seconds == 7.0


@pytest.mark.parametrize("left", [UNIT, "timing.json"])
def test_a_ruin_in_the_place_is_replaced(kept, left):
    entry = make(kept, unit(), files=FILES)
    for path in entry.folder.iterdir():
        if path.name != left:
            path.unlink()
    assert make(kept, unit(), files=FILES, seconds=3.0).seconds == 3.0
    assert kept.check(entry.key).values == entry.values


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_draft_that_was_broken_off_leaves_nothing(kept, error):
    def work():
        with kept.draft(unit()) as draft:
            (draft.folder / "a.json").write_bytes(b"1")
            raise error

    with pytest.raises(error):
        work()
    assert list(kept.drafts.iterdir()) == []
    assert not kept.has(unit().key)
    with kept.draft(unit()):
        pass
    assert not kept.has(unit().key)


@pytest.mark.parametrize("name", ["model.pkl", "model.pt", "unit.json", "timing.json", "noend"])
def test_other_formats_are_refused(kept, name):
    with pytest.raises(RunError, match=f"sum wrote {name}: a product is"):
        make(kept, unit(), files={name: b"x"})


def test_links_and_folders_are_refused(kept, tmp_path):
    (tmp_path / "a.json").write_text("1")
    with kept.draft(unit()) as draft:
        (draft.folder / "b.json").symlink_to(tmp_path / "a.json")
        with pytest.raises(RunError, match=r"sum wrote b\.json"):
            draft.commit({}, 0.0)
    with kept.draft(unit()) as draft:
        (draft.folder / "deep").mkdir()
        with pytest.raises(RunError, match="sum wrote deep"):
            draft.commit({}, 0.0)


@pytest.mark.parametrize("value", [float("nan"), object(), b"x", {1: 2, "a": 3}])
def test_values_that_are_not_json_are_refused(kept, value):
    with pytest.raises(RunError, match="sum: its values are not JSON"):
        make(kept, unit(), {"v": value})


PLAIN = st.none() | st.booleans() | st.integers() | st.text()
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    PLAIN | NUMBERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=40)
@given(values=st.dictionaries(st.text(), JSON, max_size=5))
def test_values_come_back_as_they_were(values):
    with tempfile.TemporaryDirectory() as folder:
        kept = Store(Path(folder))
        made = make(kept, unit(), values or {"": 0})
        assert made.values == kept.check(made.key).values == (values or {"": 0})
        assert repr(made.values) == repr(kept.read(made.key).values)


@settings(max_examples=150)
@given(data=st.data(), body=st.dictionaries(st.text(), JSON, min_size=1, max_size=3))
def test_every_changed_record_is_found(data, body):
    text = signed(json.dumps(body).encode())
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[place] ^ data.draw(st.integers(1, 255))
    with pytest.raises(Damaged):
        parsed(Path(), "k", text[:place] + bytes([changed]) + text[place + 1 :])
    with pytest.raises(Damaged):
        parsed(Path(), "k", text[:place])


def test_sweep_spares_the_living(kept):
    with kept.claim(unit().key), kept.draft(unit()) as draft:
        (kept.drafts / kept.locks.draft("k")).mkdir()
        assert kept.sweep() == 1
        assert list(kept.drafts.iterdir()) == [draft.folder]


def test_another_error_in_a_draft_is_its_own(kept):
    with pytest.raises(FileNotFoundError), kept.draft(unit()) as draft:
        (draft.folder / "none" / "a.json").write_bytes(b"1")


def test_the_list_tells_size_time_and_use(kept):
    first, second = make(kept, unit(1), files=FILES), make(kept, unit(2), seconds=2.0)
    os.utime(first.folder, (1000, 1000))
    (second.folder / UNIT).write_bytes(b"")
    (first.folder.parent / ".nfs01").write_bytes(b"")
    every = {each.key: each for each in kept.entries()}
    assert every.keys() == {first.key, second.key}
    told = every[first.key]
    assert (told.kind, told.spec, told.seconds, told.used) == ("sum", {"number": 1}, 0.25, 1000)
    assert told.bytes == sum(path.stat().st_size for path in first.folder.iterdir())
    assert (every[second.key].kind, every[second.key].seconds) == ("?", None)
    kept.check(first.key)
    assert first.folder.stat().st_mtime == 1000
    store._verified.cache_clear()
    kept.read(first.key)
    assert first.folder.stat().st_mtime > time.time() - 60


def test_an_empty_store_is_empty(kept):
    assert list(kept.entries()) == []
    assert kept.sweep() == 0
    assert kept.busy() == {}
    assert not kept.root.exists()


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
        if not frame.f_code.co_filename.startswith(PACKAGE):
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
