"""Executors: same outcomes and bytes; lost workers, interrupts, needs; nothing left behind."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_units import Broken, Drawn, Large, gather, products, total

from mithridate.errors import InputError
from mithridate.studies.engine import resources, workers
from mithridate.studies.engine.perform import Outcome
from mithridate.studies.engine.resources import Room
from mithridate.studies.engine.store import Store
from mithridate.studies.engine.workers import InProcess, Processes


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"
    path.touch()
    return path


def notes(log):
    return [(what, int(pid)) for what, pid, _ in map(str.split, log.read_text().splitlines())]


def alive(pid):
    """Whether a process runs, or is a zombie."""
    return Path(f"/proc/{pid}").exists()


def gone(pids, seconds=15.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(alive, pids)):
        time.sleep(0.05)
    return not any(map(alive, pids))


def test_processes_make_the_same_bytes_as_this_process(tmp_path, log):
    units = [total(i, 1) for i in range(6)] + [Drawn(seed=i) for i in range(4)]
    units.append(Broken(how="input"))
    with InProcess(tmp_path / "one") as crew:
        one = gather(crew, units)
    with Processes(2, tmp_path / "two") as crew:
        assert crew.slots == 2
        two = gather(crew, units)
        assert crew.wait() == []
        pids = [worker.process.pid for worker in crew._workers]
        assert len(pids) == 2
    assert products(tmp_path / "one") == products(tmp_path / "two")
    assert {k: (o.status, o.error) for k, o in one.items()} == {
        k: (o.status, o.error) for k, o in two.items()
    }
    assert gone(pids)


def test_progress_comes_at_a_low_rate_and_an_idle_worker_that_died_is_replaced(root):
    reports = []
    first, second, third = total(1, seconds=0.1), total(2), total(3)
    with Processes(1, root, follow=lambda *report: reports.append(report)) as crew:
        gather(crew, [first, second])
        (worker,) = crew._workers
        worker.process.kill()
        worker.process.wait()
        assert gather(crew, [third])[third.key].status == "made"
    # the second unit is begun within PAUSE of the first, and the third by a new worker
    assert reports == [(first, 0, 1, "adding"), (third, 0, 1, "adding")]


def test_lost_workers_lose_no_unit_but_the_one_that_kills_them(root, log, monkeypatch):
    monkeypatch.setattr(workers, "TRIES", 2)
    units = [total(i) for i in range(3)]
    once, always = (Broken(how=how, log=str(log)) for how in ("kill once", "kill"))
    with Processes(2, root) as crew:
        outcomes = gather(crew, [once, *units]) | gather(crew, [always])
    assert outcomes.pop(always.key) == Outcome(
        always.key,
        status="failed",
        error="toy-broken: its worker was lost 2 times (SIGKILL, mostly for want of memory): "
        "run fewer workers",
        exit_code=4,
    )
    assert {o.status for o in outcomes.values()} == {"made"}
    pids = [pid for _, pid in notes(log)]
    assert len(pids) == 3
    assert gone(pids)
    assert Store(root).sweep() == 4  # three drafts, and the last one's lock
    assert list(Store(root).drafts.glob("*")) == []


def test_wait_returns_when_time_is_up(root):
    with Processes(1, root) as crew:
        crew.submit(total(1, seconds=30))
        began = time.monotonic()
        assert crew.wait(0.2) == []
        assert time.monotonic() - began < 2


def test_close_drops_what_is_made(root, log):
    unit = total(1, seconds=60, log=log)
    with Processes(1, root) as crew:
        crew.submit(unit)
        crew.submit(total(2))
        while not Store(root).busy():
            crew.wait(0.1)
        pids = [worker.process.pid for worker in crew._workers]
        time.sleep(0.2)
        began = time.monotonic()
    assert time.monotonic() - began < 2 * workers.GRACE
    assert not any(map(alive, pids))
    assert not Store(root).has(unit.key)
    assert not Store(root).busy()
    assert list(Store(root).drafts.glob("*")) == []


def test_close_kills_what_does_not_listen(root, log, monkeypatch):
    monkeypatch.setattr(workers, "GRACE", 0.3)
    with Processes(1, root) as crew:
        crew.submit(Broken(how="deaf", log=str(log)))
        while not notes(log):
            crew.wait(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert gone([pid for _, pid in notes(log)], 0.1)


PARENT = """
import sys
sys.path[:] = {path!r}
from pathlib import Path
from toy_units import Total
from mithridate.studies.engine.workers import Processes
crew = Processes(2, Path({root!r}))
try:
    for i in range(2):
        crew.submit(Total(plus=i, seconds=60))
    while True:
        crew.wait(0.1)
        print(*[w.process.pid for w in crew._workers], flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    crew.close()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.usefixtures("ctrl_c")
def test_workers_end_with_their_parent(root, number):
    code = PARENT.format(path=sys.path, root=str(root))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        while len(list(Store(root).drafts.glob("*"))) < 2:
            time.sleep(0.05)
        os.killpg(parent.pid, number)  # as a terminal does with Ctrl-C
        out = parent.communicate(timeout=20)[0]
    assert len(pids) == 2
    assert gone(pids)
    assert ("interrupted" in out) == (number == signal.SIGINT)
    assert not Store(root).busy()
    assert list(Store(root).drafts.glob("*")) == []


def test_units_wait_for_the_memory_that_they_declare(root, log, monkeypatch):
    monkeypatch.setattr(resources, "gpus", lambda: 0)
    monkeypatch.setattr(resources, "available_memory", lambda: 100)
    units = [
        Large(plus=i, bytes=size, seconds=0.3, log=str(log))
        for i, size in enumerate((60, 60, 1000))
    ]
    bad = Large(gpus=1)
    with Processes(2, root) as crew:
        outcomes = gather(crew, [bad, *units])
    refused(outcomes.pop(bad.key))
    assert {o.status for o in outcomes.values()} == {"made"}
    ends = sorted(float(text.split()[2]) for text in log.read_text().splitlines())
    assert all(b - a >= 0.29 for a, b in itertools.pairwise(ends))


def room(monkeypatch, slots, gpus=0, cpus=2, memory=100, per_gpu=1):
    monkeypatch.setattr(resources, "available_memory", lambda: memory)
    monkeypatch.setattr(resources, "gpus", lambda: gpus)
    monkeypatch.setattr(resources, "cpus", lambda: cpus)
    return Room(slots, per_gpu)


def test_room_counts_slots_threads_and_memory(monkeypatch):
    place = room(monkeypatch, 2)
    first = place.take(Large())
    assert place.take(Large(threads=2)) is None
    assert place.take(Large(bytes=100)) is None
    second = place.take(Large(bytes=99))
    assert place.take(Large()) is None
    place.give(first)
    place.give(second)
    alone = place.take(Large(threads=8, bytes=10**6))  # more than there is: alone
    assert alone is not None
    assert place.take(Large()) is None


def test_room_hands_each_gpu_to_one_unit(monkeypatch):
    place = room(monkeypatch, 9, gpus=2)
    first, second = place.take(Large(gpus=1)), place.take(Large(gpus=1))
    assert (first.gpus, second.gpus) == ((0,), (1,))
    assert place.take(Large(gpus=1)) is None
    assert place.take(Large()).gpus == ()
    place.give(first)
    assert place.take(Large(gpus=1)).gpus == (0,)
    with pytest.raises(InputError, match="needs 3 GPUs, and this machine has 2"):
        place.take(Large(gpus=3))


def test_room_shares_gpus_evenly_where_asked(monkeypatch):
    place = room(monkeypatch, 9, gpus=2, cpus=9, per_gpu=2)
    held = [place.take(Large(gpus=1)) for _ in range(4)]
    assert [share.gpus for share in held] == [(0,), (1,), (0,), (1,)]
    assert place.take(Large(gpus=1)) is None
    place.give(held[1])
    assert place.take(Large(gpus=1)).gpus == (1,)


def refused(outcome):
    assert outcome.exit_code == 2
    assert "needs 1 GPU, and this machine has 0: set device=cpu" in outcome.error


def test_a_unit_without_its_gpu_fails_and_others_do_not(root, monkeypatch):
    monkeypatch.setattr(resources, "gpus", lambda: 0)
    bad = Large(gpus=1)
    with InProcess(root) as crew:
        outcomes = gather(crew, [bad, total(1)])
    refused(outcomes[bad.key])
    assert outcomes[total(1).key].status == "made"


def test_in_process_does_one_after_the_other(root):
    reports = []
    with InProcess(root, follow=lambda *report: reports.append(report)) as crew:
        assert crew.wait() == []
        crew.submit(total(1))
        crew.submit(total(2))
        assert [o.key for o in crew.wait()] == [total(1).key]
        assert [o.key for o in crew.wait(0.0)] == [total(2).key]
    assert reports == [(total(1), 0, 1, "adding"), (total(2), 0, 1, "adding")]


def test_the_number_of_workers_is_checked(root):
    with pytest.raises(InputError, match="workers must be at least 1"):
        Processes(0, root)
    with pytest.raises(InputError, match="per_gpu must be at least 1"):
        Processes(1, root, per_gpu=0)


def test_relative_roots_are_the_callers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with InProcess(Path("here")) as crew:
        gather(crew, [total(1)])
        assert Processes(1, Path("here")).root == crew.root
    folder = Store(tmp_path / "here").folder(total(1).key)
    assert json.loads((folder / "total.json").read_text()) == 1
