"""Locks: whose they are, who may take them over, and that no live one is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest

from mithridate.errors import RunError
from mithridate.studies.engine import lock
from mithridate.studies.engine.lock import Held, Locks, Owner, Pulse, me, read


@pytest.fixture
def locks(tmp_path):
    return Locks(tmp_path / "locks")


def plant(locks, key, owner, *, expires=60.0, token="planted"):
    """A lock of another process's."""
    locks.folder.mkdir(exist_ok=True)
    path = locks.folder / f"{key}.lock"
    told = {"owner": owner.host, "pid": owner.pid, "started": owner.started, "token": token}
    path.write_text(json.dumps({**told, "expires": int(time.time() + expires)}))
    return path


def dead():
    """A process of this host that has ended, and was waited for."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    owner = Owner(me().host, pid, lock._started(pid) or 0)
    os.waitpid(pid, 0)
    return owner


FAR = Owner("elsewhere-00000000", 1, 1)


def test_one_holder_at_a_time(locks):
    first = locks.claim("k")
    assert first is not None
    assert locks.claim("k") is None
    assert locks.claim("other") is not None
    first.release()
    with locks.claim("k") as again:
        assert locks.claim("k") is None
        assert again.token != first.token
    assert not again.path.exists()


def test_the_file_names_its_owner(locks):
    with locks.claim("k"):
        told = json.loads((locks.folder / "k.lock").read_text())
    assert (told["owner"], told["pid"]) == (me().host, os.getpid())
    assert 0 < told["expires"] - time.time() <= lock.EXPIRY


def test_a_dead_owners_lock_is_taken_at_once(locks):
    plant(locks, "k", dead(), expires=1e6)
    assert locks.claim("k") is not None
    assert [path.name for path in locks.folder.iterdir()] == ["k.lock"]


def test_a_number_given_anew_is_another_process(locks):
    plant(locks, "k", me()._replace(started=me().started - 1), expires=1e6)
    assert locks.claim("k") is not None


def test_a_zombie_is_dead():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    owner = Owner(me().host, pid, 0)
    end = time.monotonic() + 5
    while owner.alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert owner.alive() is False
    os.waitpid(pid, 0)


def test_a_live_owners_lock_is_left(locks):
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        plant(locks, "k", Owner(me().host, pid, lock._started(pid)))
        assert locks.claim("k") is None
        assert locks.sweep() == 0
        assert locks.live()["k"].owner.pid == pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert locks.live() == {}
    assert locks.claim("k") is not None


@pytest.mark.parametrize(("expires", "taken"), [(60.0, False), (-2.0, True)])
def test_another_hosts_lock_is_taken_once_it_expired(locks, expires, taken):
    plant(locks, "k", FAR, expires=expires)
    assert (locks.claim("k") is not None) == taken


def test_an_expired_lock_of_a_halted_process_is_taken(locks):
    plant(locks, "k", Owner(me().host, os.getppid(), 0), expires=-2.0)
    assert locks.claim("k") is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"owner": "x"}', '{"pid": "y"}'])
def test_a_file_that_says_nothing_expires_like_any_other(locks, text):
    locks.folder.mkdir()
    path = locks.folder / "k.lock"
    path.write_text(text)
    assert locks.claim("k") is None
    old = time.time() - lock.EXPIRY - 1
    os.utime(path, (old, old))
    assert locks.claim("k") is not None


def test_a_beat_puts_the_expiry_off(locks):
    held = locks.claim("k")
    path = plant(locks, "k", me(), expires=1.0, token=held.token)
    held.beat()
    assert read(path).expires > time.time() + lock.EXPIRY - 5
    held.release()
    assert not path.exists()


def test_a_lock_that_was_taken_over_is_the_takers(locks):
    held = locks.claim("k")
    path = plant(locks, "k", FAR, token="taker")
    before = path.read_bytes()
    held.beat()
    held.release()
    assert path.read_bytes() == before
    path.unlink()
    held.beat()
    held.release()
    assert not path.exists()


def test_burying_the_wrong_one_puts_it_back(locks):
    """A slow taker saw a dead owner; a faster one has put its own lock there meanwhile."""
    path = plant(locks, "k", dead(), token="old")
    seen = read(path)
    fresh = plant(locks, "k", me(), token="new").read_bytes()
    lock._bury(path, seen)
    assert path.read_bytes() == fresh
    assert [file.name for file in locks.folder.iterdir()] == ["k.lock"]
    lock._bury(path, read(path))
    assert list(locks.folder.iterdir()) == []
    lock._bury(path, seen)


def test_sweep_removes_what_the_dead_left(locks):
    plant(locks, "a", dead())
    plant(locks, "b", FAR, expires=-1.0)
    plant(locks, "c", FAR)
    litter = plant(locks, "d", dead())
    litter.rename(litter.with_name("d.0123.dead"))
    with locks.claim("e"):
        assert locks.sweep() == 3
        assert sorted(path.name for path in locks.folder.iterdir()) == ["c.lock", "e.lock"]
    assert locks.live().keys() == {"c"}


def test_the_pulse_beats_what_is_held(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.002)
    pulse, beaten = Pulse(), threading.Semaphore(0)
    pulse.add(beaten.release)
    assert all(beaten.acquire(timeout=5) for _ in range(3))
    pulse.drop(beaten.release)
    assert pulse._beats == set()
    monkeypatch.setattr(lock, "BEAT", 1e6)


def test_many_takers_of_a_dead_owners_lock_end_with_one(locks):
    """The window that the module tells of is not hit by two takers at all."""
    owner = dead()
    for round_ in range(20):
        path = plant(locks, f"k{round_}", owner)
        taken = [Locks(locks.folder).claim(f"k{round_}") for _ in range(2)]
        assert taken[0] is not None
        assert taken[1] is None
        assert read(path).token == taken[0].token


@pytest.mark.parametrize("number", lock.LINKLESS)
def test_a_file_system_without_links(locks, monkeypatch, number):
    def link(old, new):
        raise OSError(number, "no links here")

    monkeypatch.setattr(lock.os, "link", link)
    with locks.claim("k"):
        assert locks.claim("k") is None
        assert locks.live().keys() == {"k"}
        assert locks._born(locks.folder / "k.lock") is None
        assert [path.name for path in locks.folder.iterdir()] == ["k.lock"]
    assert list(locks.folder.iterdir()) == []


def test_a_link_whose_answer_was_lost_is_ours(locks, monkeypatch):
    real = os.link

    def link(old, new):
        real(old, new)
        raise FileExistsError

    monkeypatch.setattr(lock.os, "link", link)
    held = locks.claim("k")
    assert read(locks.folder / "k.lock").token == held.token
    assert [path.name for path in locks.folder.iterdir()] == ["k.lock"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "locks").write_text("a file")
    with pytest.raises(RunError, match=r"cannot write .*k\.lock: (Not a directory|File exists)"):
        Locks(tmp_path / "locks").claim("k")


def test_held_by_nobody_alive():
    assert not Held(FAR, "t", time.time() - 1).live()
    assert Held(FAR, "t", time.time() + 9).live()
    assert not Held(dead(), "t", time.time() + 9).live()
