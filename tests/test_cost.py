import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mithridate.cost import Cost


def test_all_rows_share_a_pass():
    cost = Cost()
    with cost.by_row(3) as ledger:
        cost.charge(3)
        cost.charge(6)
        cost.charge(0)
    assert (ledger.counts.tolist(), ledger.broken) == ([3, 3, 3], False)
    assert ledger.counts.dtype == torch.int64
    assert cost.ledger is None


@pytest.mark.parametrize("images", [1, 2, 4])
def test_a_pass_that_does_not_fit_breaks_the_ledger(images):
    cost = Cost()
    with cost.by_row(3) as ledger:
        cost.charge(images)
    assert ledger.broken


def test_a_pass_for_no_rows():
    cost = Cost()
    with cost.by_row(3) as ledger, cost.on_rows(torch.tensor([], dtype=torch.int64)):
        cost.charge(0)
        assert not ledger.broken
        cost.charge(3)
    assert ledger.broken


def test_inner_rows_are_relative_to_the_outer_ones():
    cost = Cost()
    with cost.by_row(5) as ledger, cost.on_rows(torch.tensor([4, 2, 0])):
        with cost.on_rows(torch.tensor([False, True, True])):
            cost.charge(2)
            with cost.on_rows(slice(1, 2)), cost.on_rows(None):
                cost.charge(10)
        cost.charge(3)
    cost.charge(7)
    assert ledger.counts.tolist() == [12, 0, 2, 0, 1]
    assert not ledger.broken


def test_an_error_inside_restores_the_outer_rows():
    cost = Cost()
    with cost.by_row(2) as outer:
        with pytest.raises(KeyboardInterrupt), cost.on_rows(torch.tensor([1])):
            raise KeyboardInterrupt
        with pytest.raises(ValueError, match="stop"), cost.by_row(9):
            raise ValueError("stop")
        cost.charge(2)
    assert outer.counts.tolist() == [1, 1]


def test_without_a_ledger_nothing_happens():
    cost = Cost(3, 2)
    with cost.on_rows(torch.tensor([99])):
        cost.charge(5)
    assert cost == Cost(3, 2)
    assert repr(cost) == "Cost(queries=3, gradients=2, refused=0)"


@given(st.lists(st.tuples(st.sets(st.integers(0, 6)), st.integers(0, 3)), max_size=8))
def test_counts_add_up(passes):
    cost, expected = Cost(), [0] * 7
    with cost.by_row(7) as ledger:
        for rows, times in passes:
            with cost.on_rows(torch.tensor(sorted(rows), dtype=torch.int64)):
                cost.charge(times * len(rows))
            for row in rows:
                expected[row] += times
    assert (ledger.counts.tolist(), ledger.broken) == (expected, False)
