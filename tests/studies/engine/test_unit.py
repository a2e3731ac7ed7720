"""Units: their keys."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mithridate.errors import InputError
from mithridate.studies.engine import unit as module
from mithridate.studies.engine.unit import Kind, Unit, Work, canonical, kind_of


class Plain(Kind):
    """Makes nothing."""

    def make(self, spec, inputs, folder, tell):
        return {"x": 1}


class Later(Plain):
    """The same, of a later version."""

    version = 2


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    made = {"plain": Plain(), "later": Later()}
    monkeypatch.setattr(module, "_KINDS", made)
    return made


def test_a_key_holds_spec_inputs_kind_and_code():
    a, b = Unit("plain", {"x": 1}), Unit("plain", {"x": 2})
    every = [
        a,
        b,
        Unit("later", {"x": 1}),
        Unit("plain", {"x": 1, "y": None}),
        Unit("plain", {"x": True}),
        Unit("plain", {"x": "1"}),
        Unit("plain", {"x": 1}, {"of": a}),
        Unit("plain", {"x": 1}, {"of": b}),
        Unit("plain", {"x": 1}, {"of": (a,)}),
        Unit("plain", {"x": 1}, {"of": (a, b)}),
        Unit("plain", {"x": 1}, {"of": (b, a)}),
        Unit("plain", {"x": 1}, {"on": a}),
    ]
    assert len({unit.key for unit in every}) == len(every)
    assert len(set(every)) == len(every)
    assert Unit("plain", {"x": 1}, {"of": Unit("plain", {"x": 1})}) == every[6]
    assert a != "a"


def test_a_key_follows_the_version_of_a_kind_from_elsewhere(kinds):
    before = Unit("later", {}).key
    child = Unit("plain", {}, {"of": Unit("later", {})}).key
    kinds["later"].version = 3
    assert Unit("later", {}).key != before
    assert Unit("plain", {}, {"of": Unit("later", {})}).key != child
    assert Unit("plain", {}).about["code"] == {Plain.__module__: 0}


def test_the_order_of_a_table_is_of_no_meaning():
    a, b = Unit("plain", {"x": 1}), Unit("plain", {"x": 2})
    one = Unit("plain", {"p": 1, "q": {"r": 2, "s": [3]}}, {"a": a, "b": b})
    two = Unit("plain", {"q": {"s": [3], "r": 2}, "p": 1}, {"b": b, "a": a})
    assert one.key == two.key
    assert list(two.parents()) == [b, a]


def test_parents_of_a_list_are_in_its_order():
    a, b, c = (Unit("plain", {"x": i}) for i in range(3))
    assert list(Unit("plain", {}, {"of": (c, a), "on": b}).parents()) == [c, a, b]


def test_what_is_not_json_has_no_key():
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = Unit("plain", {"x": float("nan")}).key
    with pytest.raises(TypeError):
        _ = Unit("plain", {"x": object()}).key


def test_an_unknown_kind_is_refused(monkeypatch):
    monkeypatch.setattr(module, "_KINDS", {})
    with pytest.raises(InputError, match="did you mean 'model'"):
        kind_of("modl")
    assert kind_of("model") is kind_of("model")


def test_defaults_of_a_kind():
    kind = Plain()
    assert kind.open(None, {"x": 1}, {}, {}) == {"x": 1}
    assert kind.needs({}).gpus == 0
    assert kind.needs({"device": "cuda"}).gpus == 1
    assert kind.work(Unit("plain", {}), None) == Work()
    assert kind.code({}) == ()
    assert kind.stored


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_canonical_text_survives_a_round_trip(value):
    text = canonical(value)
    assert json.loads(text) == value
    assert canonical(json.loads(text)) == text
    assert canonical(dict(reversed(list(value.items())))) == text
