"""Accuracy against chance: SciPy's own binomial test says the same."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from mithridate.metrics import chance_doubts
from mithridate.metrics.chance import ALPHA, SKILL


@given(st.integers(2, 12), st.integers(1, 120), st.data())
def test_the_doubt_is_that_of_the_test(classes, n, data):
    labels = torch.arange(n) % classes
    right = data.draw(st.integers(0, n))
    predicted = torch.where(torch.arange(n) < right, labels, (labels + 1) % classes)
    ids = [doubt.id for doubt in chance_doubts(predicted, labels, classes)]
    commonest = -(-n // classes) / n if n > 1 else 1 / classes
    below = binomtest(right, n, 1 / classes, alternative="less").pvalue <= ALPHA
    above = binomtest(right, n, commonest, alternative="greater").pvalue <= ALPHA
    near = not above or right / n - commonest <= SKILL * (1 - commonest) + 1e-12
    assert ids == (["below-chance"] if below else ["near-chance"] if near else [])


@pytest.mark.parametrize(
    ("predicted", "labels", "expected"),
    [
        ([0] * 90 + [1] * 10, [0] * 90 + [1] * 10, []),  # all right, however uneven
        ([0] * 99 + [1], [0] * 99 + [1], ["near-chance"]),  # too uneven to tell
        ([0] * 100, [0] * 99 + [1], ["near-chance"]),  # a constant answer
        ([0] * 100, [0] * 100, []),  # one class alone: guessing is the measure
        ([], [], []),
    ],
)
def test_uneven_classes(predicted, labels, expected):
    doubts = chance_doubts(torch.tensor(predicted), torch.tensor(labels), 2)
    assert [doubt.id for doubt in doubts] == expected
