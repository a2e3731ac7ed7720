from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix

from mithridate.errors import InputError
from mithridate.metrics import accuracy, attack_success_rate, confusion

label_pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=80)


@given(label_pairs)
def test_agrees_with_sklearn(rows: list[tuple[int, int]]) -> None:
    said, true = (torch.tensor(column) for column in zip(*rows, strict=True))
    theirs = confusion_matrix(true, said, labels=range(5))
    assert np.array_equal(confusion(said, true, 5).numpy(), theirs)
    assert accuracy(said, true).value == accuracy_score(true, said)


def test_nothing_to_count() -> None:
    none = torch.zeros(0, dtype=torch.long)
    assert accuracy(none, none).n == 0
    assert confusion(none, none, 3).tolist() == [[0] * 3] * 3
    assert attack_success_rate([1, 1], 1, labels=[1, 1]).n == 0


def test_refuses_bad_labels() -> None:
    with pytest.raises(InputError, match="one of each"):
        accuracy([1, 2], [1])
    with pytest.raises(InputError, match="below 3"):
        confusion([1, 3], [1, 1], 3)
    with pytest.raises(InputError, match="integers"):
        accuracy(torch.tensor([0.5]), [0])
    with pytest.raises(InputError, match="mask is bool"):
        attack_success_rate([1], 1, mask=torch.ones(2, dtype=torch.bool))
    with pytest.raises(InputError, match="target"):
        attack_success_rate([1, 1], [1])


def test_success_leaves_out_images_of_the_target_class() -> None:
    found = attack_success_rate([9, 9, 8, 9], 9, labels=[8, 8, 8, 9])
    assert (found.k, found.n) == (2, 3)


def test_success_per_image_targets() -> None:
    true = torch.tensor([0, 1, 2, 2])
    found = attack_success_rate([1, 2, 0, 1], (true + 1) % 3, labels=true)
    assert (found.k, found.n) == (3, 4)


@given(label_pairs, st.integers(0, 4))
def test_success_does_not_depend_on_clean_accuracy(
    rows: list[tuple[int, int]], target: int
) -> None:
    """Whatever the model says about images outside the mask changes nothing."""
    said, true = (torch.tensor(column) for column in zip(*rows, strict=True))
    attacked = torch.arange(len(said)) % 2 == 0
    once = attack_success_rate(said, target, labels=true, mask=attacked)
    ruined = torch.where(attacked, said, (true + 1) % 5)
    again = attack_success_rate(ruined, target, labels=true, mask=attacked)
    assert (once.k, once.n) == (again.k, again.n)
    wanted = [(s, t) for i, (s, t) in enumerate(rows) if i % 2 == 0 and t != target]
    assert (once.k, once.n) == (sum(s == target for s, _ in wanted), len(wanted))
