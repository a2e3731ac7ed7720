"""Running a plan: order, failures, Ctrl-C, progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from mithridate.studies.engine.cells import Cell
from mithridate.studies.engine.clock import Clock
from mithridate.studies.engine.perform import Outcome
from mithridate.studies.engine.plan import Plan
from mithridate.studies.engine.run import Failure, discard_damaged, run
from mithridate.studies.engine.store import Store
from mithridate.studies.engine.unit import Unit
from mithridate.studies.engine.workers import InProcess


@dataclass(frozen=True, kw_only=True, eq=False)
class Named(Unit[dict]):
    """Writes its name; fails, or interrupts, where its settings say so."""

    kind: ClassVar = "named"

    name: str
    how: str = ""
    of: tuple[Unit, ...] = ()

    def make(self, get, folder, tell):
        tell(1, 2, "parts")
        if self.how == "fail":
            raise RuntimeError(f"{self.name} is broken")
        if self.how == "interrupt":
            raise KeyboardInterrupt
        (folder / "name.json").write_text(f'"{self.name}"')
        return {"name": self.name}


@dataclass(frozen=True, kw_only=True, eq=False)
class Source(Named):
    kind: ClassVar = "source"
    stored: ClassVar = False

    def open(self, folder, values, get):
        return [get(unit) for unit in self.of]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def unit(name, *parents, how="", kind=Named):
    return kind(name=name, how=how, of=parents)


def planned(*leaves):
    order, seen = [], set()

    def visit(one):
        for parent in one.parents():
            visit(parent)
        if one.key not in seen:
            seen.add(one.key)
            order.append(one)

    for leaf in leaves:
        visit(leaf)
    cells = [(Cell(f"m/{i:04d}", "m", "x", {}, {}), leaf) for i, leaf in enumerate(leaves)]
    return Plan(None, cells, order=order)


class Script:
    """Workers that finish units in an order of their own; `fail` names those that fail."""

    def __init__(self, most=2, fail=(), last_first=False, stop_after=None):
        self.most, self.fail, self.last_first = most, fail, last_first
        self.stop_after = stop_after
        self.queue, self.begun, self.peak = [], [], 0

    def submit(self, one):
        self.begun.append(one.name)
        self.queue.append(one)
        self.peak = max(self.peak, len(self.queue))

    def wait(self, timeout=None):
        if self.stop_after is not None and len(self.begun) > self.stop_after:
            raise KeyboardInterrupt
        one = self.queue.pop(-1 if self.last_first else 0)
        if one.name in self.fail:
            return [Outcome(one.key, 0.0, "failed", f"{one.name} broke", 4)]
        return [Outcome(one.key, 1.5, "made")]

    def close(self):
        pass


def diamond():
    """Two leaves over a shared unit, and one that stands alone."""
    data = unit("data", kind=Source)
    a, b = unit("a", data), unit("b", data)
    return planned(unit("left", a, b), unit("right", b), unit("alone"))


@pytest.mark.parametrize("last_first", [False, True])
@pytest.mark.parametrize("most", [1, 2, 6])
def test_every_unit_once_and_after_those_that_it_needs(store, most, last_first):
    plan = diamond()
    crew = Script(most, last_first=last_first)
    ran = run(plan, store, crew)
    assert sorted(crew.begun) == ["a", "alone", "b", "left", "right"]
    place = crew.begun.index
    assert place("left") > max(place("a"), place("b"))
    assert place("right") > place("b")
    assert crew.peak <= most
    assert len(ran.made) == 5
    assert set(ran.seconds.values()) == {1.5}
    assert not ran.failed
    assert not ran.interrupted


@pytest.mark.parametrize(("most", "order"), [(1, "a1b2"), (2, "ab12")])
def test_cells_are_finished_in_the_order_of_the_plan(store, most, order):
    first, second = unit("1", unit("a")), unit("2", unit("b"))
    crew = Script(most)
    run(planned(first, second), store, crew)
    assert "".join(crew.begun) == order


def test_a_unit_is_begun_only_when_all_that_it_needs_has_ended(store):
    """Through kinds that store nothing, too."""
    a, b = unit("a"), unit("b")
    leaf = unit("leaf", unit("mixed", unit("more", b, kind=Source), a, kind=Source))
    ended = []

    class Watch(Script):
        def submit(self, one):
            if one.name == "leaf":
                assert sorted(ended) == ["a", "b"]
            super().submit(one)

        def wait(self, timeout=None):
            ended.append(self.queue[0].name)
            return super().wait(timeout)

    run(planned(leaf), store, Watch(8))
    assert ended == ["b", "a", "leaf"]


def test_a_failure_takes_with_it_what_needs_the_unit_and_no_more(store):
    plan = diamond()
    crew = Script(4, fail=("a",))
    ran = run(plan, store, crew)
    names = {one.key: one.name for one in plan.order}
    broke = Failure("a broke", 4)
    assert {names[key]: why for key, why in ran.failed.items()} == {"a": broke, "left": broke}
    assert {names[key] for key in ran.made} == {"b", "right", "alone"}
    assert "left" not in crew.begun


def test_two_failures_below_one_unit_are_counted_once(store):
    a, b = unit("a"), unit("b")
    top = unit("top", unit("left", a), unit("right", b))
    told = []
    ran = run(planned(top), store, Script(4, fail=("a", "b")), follow=lambda *of: told.append(of))
    assert len(ran.failed) == 5
    assert told[-1][:2] == (5, 5)


def test_progress_counts_every_unit_to_the_end_and_passes_on_what_units_tell(store):
    plan, told = diamond(), []
    clock = Clock(plan.missing(store), 1)
    run(plan, store, Script(fail=("b",)), clock=clock, follow=lambda *of: told.append(of))
    assert [one.name for _, _, one, _ in told if one is not None] == ["a", "b", "alone"]
    counts = [done for done, *_ in told]
    assert counts == sorted(counts)
    assert {total for _, total, *_ in told} == {5}
    assert (counts[0], counts[-1]) == (0, 5)
    assert clock.left() == 2 * 1.0  # those that were never begun, at the mean of 1.5, 0 and 1.5
    told.clear()
    with InProcess(store.root) as crew:
        run(planned(unit("x")), store, crew, follow=lambda *of: told.append(of))
    assert [(done, what) for done, _, _, what in told] == [
        *((0, ""), (0, "parts, 1 of 2"), (1, "")),
    ]


def test_interrupted_it_keeps_what_is_finished(store):
    plan = diamond()
    ran = run(plan, store, Script(stop_after=3))
    assert ran.interrupted
    names = {one.key: one.name for one in plan.order}
    assert {names[key] for key in ran.made} <= {"a", "b", "alone"}
    assert not ran.failed


def test_in_this_process(store):
    data = unit("data", kind=Source)
    good, bad = unit("good", data), unit("bad", data, how="fail")
    plan = planned(unit("on good", good), unit("on bad", bad), unit("on both", good, bad))
    with InProcess(store.root) as crew:
        ran = run(plan, store, crew)
    assert {one.name for one in plan.order if store.has(one.key)} == {"good", "on good"}
    assert len(ran.failed) == 3
    (why,) = set(ran.failed.values())
    assert why.reason.startswith("RuntimeError: bad is broken (named, ")
    assert why.exit_code == 4
    with InProcess(store.root) as crew:
        again = run(plan, store, crew)
    assert not again.made  # what was made is made no more; the failed is tried again
    assert again.failed == ran.failed


def test_ctrl_c_in_a_unit_drops_its_draft_and_lock(store):
    plan = planned(unit("one"), unit("two", how="interrupt"), unit("three"))
    with InProcess(store.root) as crew:
        ran = run(plan, store, crew)
    assert ran.interrupted
    assert [store.has(leaf.key) for _, leaf in plan.leaves] == [True, False, False]
    assert not list((store.base / "tmp").iterdir())
    assert not list((store.base / "locks").iterdir())


def test_nothing_missing_nothing_begun(store):
    plan = diamond()
    with InProcess(store.root) as crew:
        run(plan, store, crew)
    crew = Script()
    told = []
    ran = run(plan, store, crew, follow=lambda *of: told.append(of))
    assert (crew.begun, told, ran.made, ran.failed) == ([], [], set(), {})


@pytest.mark.parametrize("file", ["name.json", "unit.json"])
def test_a_damaged_leaf_is_made_again(store, file):
    plan = diamond()
    with InProcess(store.root) as crew:
        run(plan, store, crew)
    assert discard_damaged(plan, store) == set()
    left = plan.leaves[0][1]
    path = store.folder(left.key) / file
    path.write_bytes(path.read_bytes().replace(b"left", b"lift"))
    fresh = Store(store.root / ".." / "store")  # hashes are looked at once in a process
    assert discard_damaged(plan, fresh) == {left.key}
    assert [one.name for one in plan.missing(store)] == ["left"]
    with InProcess(store.root) as crew:
        assert run(plan, store, crew).made == {left.key}
    assert discard_damaged(plan, Store(store.root / "." / ".." / "store")) == set()
