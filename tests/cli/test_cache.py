"""`mithridate cache`: what is kept, whether it is whole, and making room."""

from __future__ import annotations

import json
import os
import time
from types import SimpleNamespace

import pytest

from mithridate.cli.cache import chosen, parse_bytes, sized
from mithridate.errors import InputError
from mithridate.studies.engine import store as engine
from mithridate.studies.engine.entry import Kept
from mithridate.studies.engine.store import Store

DAY = 86_400


@pytest.fixture
def store(call, monkeypatch, tmp_path):
    """The store that the command sees, with three units: used 1, 2 and 3 days ago."""
    monkeypatch.setenv("MITHRIDATE_CACHE", str(tmp_path / "cache"))
    kept = Store(tmp_path / "cache" / "store")
    for number, kind in ((1, "model"), (2, "model"), (3, "data")):
        entry = make(kept, number, kind)
        used = time.time() - number * DAY
        os.utime(entry.folder, (used, used))
    engine._verified.cache_clear()
    return kept


def key(number):
    return f"{number:02x}" * 32


def make(kept, number, kind):
    empty = {"version": 1, "inputs": {}, "components": {}}
    identity = {"kind": kind, "spec": {"number": number}, **empty}
    with kept.draft(SimpleNamespace(kind=kind, key=key(number), identity=identity)) as draft:
        (draft.folder / "a.json").write_bytes(b"1" * 2000)
        return draft.commit({}, 1.5)


def test_list_sums_up_by_kind(call, store):
    done = call("cache", "list")
    assert done.code == 0, done.err
    header, data, model, last = done.out.splitlines()
    assert header.split() == ["kind", "units", "size", "made", "in", "last", "used"]
    assert data.split()[:2] == ["data", "1"]
    assert model.split()[:2] == ["model", "2"]
    assert " 3.0 s " in model
    total = sum(kept.bytes for kept in store.entries())
    assert last.startswith(f"3 units, {sized(total)}, in ")
    assert last.endswith(str(store.root))
    told = json.loads(call("cache", "list", "--json").out)
    assert [(k["kind"], k["units"], k["seconds"]) for k in told["kinds"]] == [
        ("data", 1, 1.5),
        ("model", 2, 3.0),
    ]
    assert told["bytes"] == sum(kind["bytes"] for kind in told["kinds"])


def test_list_of_a_kind_names_each_the_last_used_first(call, store):
    done = call("cache", "list", "model")
    rows = done.out.splitlines()
    assert [row.split()[0] for row in rows[1:3]] == [key(1)[:12], key(2)[:12]]
    assert rows[1].endswith("number=1")
    told = json.loads(call("cache", "list", "model", "--json").out)
    assert [unit["unit"] for unit in told["units"]] == [key(1), key(2)]
    assert told["units"][0]["spec"] == {"number": 1}
    wrong = call("cache", "list", "modle")
    assert wrong.code == 2
    assert "did you mean 'model'?" in wrong.err


def test_verify_finds_and_repairs(call, store):
    assert call("cache", "verify").last == f"3 units sound, in {store.root}"
    path = store.folder(key(2)) / "a.json"
    path.write_bytes(b"2" + path.read_bytes()[1:])
    (store.drafts / "k.host.1-1.x").mkdir()
    found = call("cache", "verify")
    assert found.code == 4
    assert f"{key(2)}  a.json is not what was written" in found.out
    assert "1 of 3 units damaged: `mithridate cache verify --repair` removes them" in found.err
    assert store.has(key(2))
    told = json.loads(call("cache", "verify", "--json", "--repair").out)
    assert told["damaged"] == [{"unit": key(2), "reason": "a.json is not what was written"}]
    assert (told["units"], told["removed"]) == (3, 1)
    assert not store.has(key(2))
    assert call("cache", "verify").last.startswith("2 units sound")


def test_verify_looks_at_the_disk_and_is_no_use_of_a_unit(call, store):
    store.read(key(1))
    before = store.folder(key(3)).stat().st_mtime
    assert call("cache", "verify").code == 0
    assert store.folder(key(3)).stat().st_mtime == before
    (store.folder(key(1)) / "a.json").write_bytes(b"")
    assert call("cache", "verify").code == 4


def test_a_damaged_record_is_listed_and_trimmed(call, store):
    (store.folder(key(3)) / "unit.json").write_bytes(b"")
    assert "?" in [row.split()[0] for row in call("cache", "list").out.splitlines()]
    assert call("cache", "trim", "--older-than", "2.5").last.startswith("1 unit removed")
    assert call("cache", "verify").last.startswith("2 units sound")


def test_trim_by_age(call, store):
    done = call("cache", "trim", "--older-than", "1.5")
    assert done.code == 0, done.err
    assert done.last.startswith("2 units removed, 4.")
    assert "1 unit left" in done.last
    assert [kept.key for kept in store.entries()] == [key(1)]


def test_trim_to_a_size_takes_the_longest_unused_first(call, store):
    size = max(kept.bytes for kept in store.entries())
    told = json.loads(call("cache", "trim", "--to", 2 * size, "--json").out)
    assert (told["removed"], told["units"]) == (1, 2)
    assert told["bytes"] <= 2 * size
    assert [kept.key for kept in store.entries()] == [key(1), key(2)]
    store.read(key(2))
    call("cache", "trim", "--to", size)
    assert [kept.key for kept in store.entries()] == [key(2)]
    call("cache", "trim", "--to", "0")
    assert list(store.entries()) == []


def test_trim_sweeps_what_the_dead_left(call, store):
    (store.drafts / store.locks.draft("k")).mkdir()
    assert json.loads(call("cache", "trim", "--to", "1TB", "--json").out)["swept"] == 1
    assert list(store.drafts.iterdir()) == []


def test_trim_waits_for_a_run(call, store):
    with store.claim(key(9)):
        done = call("cache", "trim", "--to", "0")
    assert done.code == 4
    assert f"process {os.getpid()} on " in done.err
    assert len(list(store.entries())) == 3
    assert call("cache", "trim", "--to", "0").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say what to remove, by --older-than DAYS or --to BYTES"),
        (("--to", "5XB"), "--to takes a size such as 5GB or 500MB, got '5XB'"),
        (("--to", "-1"), "--to takes a size"),
        (("--older-than", "-1"), "--older-than"),
        (("--older-than", "old"), "--older-than"),
    ],
)
def test_trim_refuses(call, store, words, said):
    done = call("cache", "trim", *words)
    assert done.code == 2
    assert said in done.err
    assert len(list(store.entries())) == 3


def test_an_empty_cache(call, monkeypatch, tmp_path):
    monkeypatch.setenv("MITHRIDATE_CACHE", str(tmp_path / "none"))
    for words in (("list",), ("verify",), ("trim", "--to", "0")):
        done = call("cache", *words)
        assert done.code == 0, done.err
        assert "0 units" in done.last
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("text", ["", "GB", "5iB", "5 5", "1e9", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="--to takes a size"):
        parse_bytes(text)


def test_sizes_are_written_and_read_alike():
    texts = ("12", "3b", "1kB", "1KiB", "0.5 G", "2TB")
    assert [parse_bytes(text) for text in texts] == [12, 3, 1000, 1024, 5 * 10**8, 2 * 10**12]
    for count in (0, 999, 1000, 999_499, 999_600, 5 * 10**9, 3 * 10**12, 5 * 10**15):
        assert parse_bytes(sized(count)) == pytest.approx(count, rel=0.006)


def test_chosen():
    units = [
        Kept(name, "m", {}, 10, None, used) for name, used in (("a", 3.0), ("b", 1.0), ("c", 2.0))
    ]
    assert [unit.key for unit in chosen(units, 2.5, None)] == ["b", "c"]
    assert [unit.key for unit in chosen(units, None, 20)] == ["b"]
    assert [unit.key for unit in chosen(units, None, 19)] == ["b", "c"]
    assert [unit.key for unit in chosen(units, 1.5, 5)] == ["b", "c", "a"]
    assert chosen(units, None, 30) == chosen([], 9.0, 0) == []
