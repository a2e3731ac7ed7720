"""Gates: a small language with three values."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mithridate.cli.gate import NAMES, parse
from mithridate.errors import InputError

VALUES = {"suspicious": True, "p_value": 0.02, "asr": 0.5, "accuracy": 0.97, "robust_accuracy": 0.0}


@pytest.mark.parametrize(
    ("text", "breached"),
    [
        ("suspicious", True),
        ("p_value<0.05", True),
        ("p_value < 0.01", False),
        ("p_value<=0.02", True),
        ("asr>0.1 and accuracy>=0.97", True),
        ("asr>0.9 or accuracy<0.9", False),
        ("asr>0.9 and suspicious or robust_accuracy<0.1", True),
        ("statistic>3", None),
        ("statistic>3 or suspicious", True),
        ("statistic>3 and suspicious", None),
        ("statistic>3 and asr>0.9", False),
    ],
)
def test_breached(text: str, breached: bool | None) -> None:
    assert parse(text).breached(VALUES) is breached


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("suspicius", "did you mean 'suspicious'"),
        ("asr", "compare it"),
        ("suspicious>0.5", "leave > out"),
        ("asr>x", "no number"),
        ("asr>0.1 and", "cannot be read"),
        ("", "cannot be read"),
        ("asr=0.1", "cannot be read"),
        ("__import__('os').system('true')", "cannot be read"),
    ],
)
def test_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse(text)


TESTS = st.sampled_from(["suspicious", *(f"{n}<0.5" for n in NAMES if n != "suspicious")])


@given(
    st.lists(st.lists(TESTS, min_size=1, max_size=3), min_size=1, max_size=3),
    st.fixed_dictionaries({name: st.sampled_from([None, 0.2, 0.8]) for name in NAMES}),
)
def test_unknown_only_where_it_could_decide(groups, values) -> None:
    """The three-valued answer is what every way of filling in the unknown values agrees on."""
    gate = parse(" or ".join(" and ".join(group) for group in groups))
    unknown = [name for name, value in values.items() if value is None]
    answers = {
        any(
            all(bool(v) if t == "suspicious" else v < 0.5 for t in group for v in [filled(t)])
            for group in groups
        )
        for choice in itertools.product([0.2, 0.0, 0.8], repeat=len(unknown))
        for filled in [
            lambda t, c=choice: {**values, **dict(zip(unknown, c, strict=True))}[t.split("<")[0]]
        ]
    }
    told = gate.breached(values)
    assert told in answers if told is not None else True
    if told is not None:
        assert answers == {told}
