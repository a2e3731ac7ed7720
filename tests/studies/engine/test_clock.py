"""The time that is left, hand-worked."""

from __future__ import annotations

import pytest
from toy_units import Large, Total

from mithridate.studies.engine.clock import Clock, span


def units(totals=0, large=0):
    return [Total(plus=i) for i in range(totals)] + [Large(plus=i) for i in range(large)]


def test_each_kind_by_its_own_mean():
    totals, large = units(totals=4), units(large=3)
    clock = Clock([*totals, *large], slots=1)
    assert clock.left() is None
    clock.ended(large[0], 60.0)
    assert clock.left() is None  # no total has ended yet
    clock.ended(totals[0], 2.0)
    assert clock.left() == 2 * 60 + 3 * 2
    clock.ended(large[1], 30.0)
    assert clock.left() == 1 * 45 + 3 * 2
    clock.ended(large[2], 30.0)
    assert clock.left() == 3 * 2


def test_what_is_expected_holds_until_others_of_the_kind_took_more():
    totals, large = units(totals=1), units(large=3)
    seconds = dict(zip((u.key for u in large), (10.0, 20.0, 40.0), strict=True))
    clock = Clock([*totals, *large], slots=1, expected=seconds | {totals[0].key: 0.0})
    assert clock.left() == 70
    clock.ended(large[0], 30.0)  # three times as long
    assert clock.left() == 3 * (20 + 40)


def test_slots_share_the_work_and_nothing_is_left_at_the_end():
    large = units(large=5)
    clock = Clock(large, slots=2)
    clock.ended(large[0], 10.0)
    assert clock.left() == 4 * 10 / 2
    for unit in large[1:]:
        clock.ended(unit, 10.0)
    assert clock.left() == 0
    assert Clock([], slots=1).left() == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.123, "0.12 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.7, "1 min 0 s"),
        (60, "1 min 0 s"),
        (119.6, "2 min 0 s"),
        (3599, "59 min 59 s"),
        (3599.7, "1 h 0 min"),
        (7260, "2 h 1 min"),
        (90000, "25 h 0 min"),
        (0, "0 s"),
    ],
)
def test_times_as_people_say_them(seconds, text):
    assert span(seconds) == text
