"""Locks: one holder at a time, none that outlives its process, and no draft lost to a sweep."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from fcntl import flock

import filelock
import pytest

from mithridate.errors import RunError
from mithridate.studies.engine import lock
from mithridate.studies.engine.lock import HOST, LOCKLESS, WEEK, Locks, Owner

ME = Owner(HOST, os.getpid())


@pytest.fixture
def locks(tmp_path):
    return Locks(tmp_path / "locks")


@contextmanager
def child(work):
    """A process that did `work` and sleeps, until it is killed at the end; gives its number."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kept = work()
            os.write(into, b"1" if kept is not None else b"0")
            time.sleep(600)
        finally:
            os._exit(1)
    try:
        assert os.read(out, 1) == b"1"
        yield pid
    finally:
        os.close(out)
        os.close(into)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def names(locks):
    return sorted(path.name for path in locks.folder.iterdir())


def test_one_holder_at_a_time(locks):
    first = locks.claim("k")
    assert locks.claim("k") is None
    with locks.claim("other"):
        assert locks.live() == {"k": ME, "other": ME}
    first.release()
    with locks.claim("k"):
        first.release()
        assert locks.claim("k") is None
    assert names(locks) == []


def test_a_lock_ends_with_its_process(locks):
    with child(lambda: locks.claim("k")) as pid:
        assert locks.claim("k") is None
        assert locks.sweep() == 0
        assert locks.live() == {"k": Owner(HOST, pid)}
        os.kill(pid, signal.SIGSTOP)
        assert locks.claim("k") is None
    assert names(locks) == ["k.lock"]
    assert locks.live() == {}
    with locks.claim("k"):
        assert locks.live() == {"k": ME}
    assert names(locks) == []


def test_a_child_does_not_hold_its_parents_lock(locks):
    held = locks.claim("k")
    with child(lambda: held):
        assert locks.claim("k") is None
        held.release()
        assert locks.claim("k") is not None


def test_many_processes_never_hold_one_together(locks, tmp_path):
    """Each holder makes a file that must not be there, and removes it."""
    inside, log = tmp_path / "inside", tmp_path / "log"
    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                taken = 0
                while taken < 100:
                    held = locks.claim("k")
                    if held is not None:
                        with held, inside.open("x"):
                            inside.unlink()
                        taken += 1
                with log.open("a") as file:
                    file.write("100\n")
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    assert log.read_text() == "100\n" * 4
    assert names(locks) == []


def test_the_lock_of_a_removed_file_is_nobodys(locks, monkeypatch):
    """Between our opening of the file and our lock on it, its holder lets it go."""
    held = locks.claim("k")
    place = filelock._unix.fcntl

    def late(descriptor, operation):
        monkeypatch.setattr(place, "flock", flock)
        held.release()
        return flock(descriptor, operation)

    monkeypatch.setattr(place, "flock", late)
    assert locks.claim("k") is None
    assert names(locks) == []
    assert locks.claim("k") is not None


@pytest.mark.parametrize("text", ["", "x", "a b c", "host pid"])
def test_a_holder_that_has_not_signed_yet(locks, text):
    with locks.claim("k") as held:
        held.path.write_text(text)
        assert locks.live() == {"k": Owner("?", 0)}


def test_sweep_removes_what_the_dead_left(locks):
    locks.folder.mkdir()
    for key in "ab":
        (locks.folder / f"{key}.lock").touch()
    with locks.claim("c"):
        assert locks.sweep() == 2
        assert names(locks) == ["c.lock"]


def draft(locks, host, age):
    folder = locks.folder.parent / f"k.{host}.0123"
    folder.mkdir()
    os.utime(folder, (time.time() - age,) * 2)
    return folder


@pytest.mark.parametrize(
    ("host", "age", "litter"),
    [(HOST, 0, True), ("far", 0, False), ("far", WEEK - 60, False), ("far", WEEK + 60, True)],
)
def test_a_draft_is_its_holders(locks, host, age, litter):
    folder = draft(locks, host, age)
    with child(lambda: locks.claim("k")):
        assert not locks.abandoned(folder)
    assert locks.abandoned(folder) == litter
    assert names(locks) == []


def test_a_drafts_name_tells_whose_it_is(locks):
    first, second = (locks.folder / locks.draft("k") for _ in range(2))
    assert first != second
    first.mkdir(parents=True)
    assert locks.abandoned(first)
    with locks.claim("k"):
        assert not locks.abandoned(first)
    assert not locks.abandoned(second)  # removed meanwhile


@pytest.mark.parametrize("number", LOCKLESS)
def test_a_file_system_without_locks(locks, monkeypatch, number):
    """Nobody is kept out, and no draft is removed that may be somebody's."""

    def refuse(descriptor, operation):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(filelock._unix.fcntl, "flock", refuse)
    with locks.claim("k"), locks.claim("k"):
        assert locks.live() == {}
        assert locks.sweep() == 0
        assert not locks.abandoned(draft(locks, HOST, WEEK - 60))
    assert locks.abandoned(draft(locks, "far", WEEK + 60))
    assert names(locks) == []


def test_a_file_that_may_not_be_tried_is_held(locks, monkeypatch):
    (folder := locks.folder).mkdir()
    (folder / "k.lock").write_text("far 7")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(lock, "_take", refuse)
    assert locks.live() == {"k": Owner("far", 7)}
    assert locks.sweep() == 0
    assert not locks.abandoned(draft(locks, HOST, 0))
    with pytest.raises(RunError, match=r"cannot write .*k\.lock: Permission denied"):
        locks.claim("k")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "locks").write_text("a file")
    with pytest.raises(RunError, match=r"cannot write .*k\.lock: (Not a directory|File exists)"):
        Locks(tmp_path / "locks").claim("k")
