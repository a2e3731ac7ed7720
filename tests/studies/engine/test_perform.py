"""One unit: made, found, repaired, failed, interrupted; the same wherever it is made."""

from __future__ import annotations

import json
import os
import random
import threading
import time

import numpy as np
import pytest
import torch
from toy_units import Broken, Drawn, Number, Total, total

from mithridate.studies.engine import perform as module
from mithridate.studies.engine import store as store_module
from mithridate.studies.engine.perform import KEPT, Kept, Outcome, perform
from mithridate.studies.engine.settle import set_threads
from mithridate.studies.engine.store import Store


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"
    path.touch()
    return path


def lines(log):
    return [text.split()[0] for text in log.read_text().splitlines()]


def file_of(root, unit, name="total.json"):
    return Store(root).folder(unit.key) / name


def flip(path):
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    module.maker_of.cache_clear()  # as a new process sees it
    store_module._verified.cache_clear()


def test_made_once_then_found(root, log):
    unit = total(1, 2, log=log, seconds=0.05)
    first, second = perform(unit, root), perform(unit, root)
    assert (first.status, second.status) == ("made", "found")
    assert first.seconds == pytest.approx(second.seconds, abs=1e-5)
    assert first.seconds >= 0.05
    assert Store(root).read(unit.key).values == {"total": 3}
    assert lines(log) == ["made"]


def test_missing_inputs_are_made_on_the_way(root):
    inner = total(1, 2)
    outer = Total(plus=10, of=inner)
    assert perform(outer, root) == Outcome(outer.key, Store(root).read(outer.key).seconds, "made")
    assert Store(root).read(outer.key).values == {"total": 13}
    assert Store(root).has(inner.key)


def test_what_is_not_stored_is_opened(root):
    unit = Number(value=4)
    assert perform(unit, root) == Outcome(unit.key, 0.0, "found")
    assert not root.exists()


def test_opened_inputs_are_kept_for_the_next_unit(root):
    perform(total(5, 6, plus=1), root)
    before = Number.opened
    perform(total(5, 6, plus=2), root)
    assert Number.opened == before


def test_kept_is_bounded_in_number_and_bytes(monkeypatch):
    kept = Kept()
    for i in range(KEPT + 12):
        kept.put(str(i), i, 0)
    assert [kept.get(str(i)) for i in range(13)] == [None] * 12 + [12]
    monkeypatch.setattr(module, "KEPT_BYTES", 100)
    kept = Kept()
    kept.put("large", 1, 101)
    assert kept.get("large") is None
    kept.put("a", 1, 60)
    kept.put("b", 2, 30)
    assert kept.get("a") == 1  # used last, so it outlives b
    kept.put("c", 3, 40)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == (1, None, 3)


def test_a_damaged_product_is_made_again(root):
    unit = total(1, 2)
    perform(unit, root)
    whole = file_of(root, unit).read_bytes()
    flip(file_of(root, unit))
    told = []
    outcome = perform(unit, root, tell=lambda *what: told.append(what[2]))
    assert (outcome.status, outcome.repaired) == ("made", (unit.key,))
    assert file_of(root, unit).read_bytes() == whole
    assert any("total.json is not what was written" in what for what in told)
    assert perform(unit, root).repaired == ()


@pytest.mark.parametrize("name", ["total.json", "unit.json"])
def test_a_damaged_input_is_made_again(root, name):
    inner = total(1, 2)
    outer = Total(plus=10, of=inner)
    perform(inner, root)
    flip(file_of(root, inner, name))
    outcome = perform(outer, root)
    assert (outcome.status, outcome.repaired) == ("made", (inner.key,))
    assert Store(root).read(outer.key).values == {"total": 13}


def test_a_users_mistake_is_one_line(root):
    outcome = perform(Broken(how="input"), root)
    assert (outcome.status, outcome.exit_code) == ("failed", 2)
    assert outcome.error == "eps must be positive, got -1"
    assert_nothing_left(root)


def test_a_bug_is_named_with_its_place(root):
    outcome = perform(Broken(how="bug", at=5), root)
    assert (outcome.status, outcome.exit_code) == ("failed", 4)
    assert outcome.error.startswith("IndexError: list index out of range (toy-broken, toy_u")
    assert_nothing_left(root)


def test_a_failed_input_fails_what_needs_it(root):
    bad = Broken(how="input")
    outcome = perform(Total(of=bad), root)
    assert (outcome.status, outcome.error) == ("failed", "eps must be positive, got -1")


def test_values_that_are_not_json_fail(root):
    outcome = perform(Broken(how="nan"), root)
    assert outcome.status == "failed"
    assert "not JSON" in outcome.error


def test_an_interrupt_drops_draft_and_lock(root):
    with pytest.raises(KeyboardInterrupt):
        perform(Broken(how="interrupt"), root)
    assert_nothing_left(root)


def assert_nothing_left(root):
    store = Store(root)
    assert list(store.entries()) == []
    assert not store.busy()
    assert [p for p in root.rglob("*") if p.is_file()] == []


def test_waits_for_another_process_and_takes_its_product(root, log):
    unit = total(1, log=log)
    lock = Store(root).claim(unit.key)
    told, outcomes = [], []

    def run():
        outcomes.append(perform(unit, root, tell=lambda *what: told.append(what[2])))

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.2)
    assert not outcomes
    with Store(root).draft(unit) as draft:
        (draft.folder / "total.json").write_text("1")
        draft.commit({"total": 1}, 0.5)
    lock.release()
    thread.join(5)
    assert outcomes == [Outcome(unit.key, 0.5, "found")]
    assert any("another run" in what for what in told)
    assert lines(log) == []


def test_threads_follow_the_unit(root):
    before = torch.get_num_threads()
    try:
        for count in (2, 1):
            unit = Drawn(threads=count)
            perform(unit, root)
            assert Store(root).read(unit.key).values["threads"] == count
            assert os.environ["OMP_NUM_THREADS"] == str(count)
    finally:
        set_threads(before)


def test_global_generators_follow_the_unit_and_are_restored(root, tmp_path):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    unit = Drawn()
    perform(unit, root)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    perform(unit, tmp_path / "other")
    first = json.loads(file_of(root, unit, "draws.json").read_text())
    assert first == json.loads(file_of(tmp_path / "other", unit, "draws.json").read_text())
    other = Drawn(seed=1)
    perform(other, root)
    assert first != json.loads(file_of(root, other, "draws.json").read_text())
