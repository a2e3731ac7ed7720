"""Precision, recall, area and loss, beside scikit-learn and a bootstrap of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, precision_score, recall_score, roc_auc_score

from mithridate.errors import InputError
from mithridate.metrics import scores


@pytest.fixture(scope="module")
def answers():
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (400,), generator=random)
    logits = 2 * torch.randn(400, 4, generator=random)
    logits[torch.arange(400), labels] += 1.5
    logits[:20] = logits[20:40]  # ties
    return logits, labels, logits.double().softmax(1).numpy(), np.eye(4)[labels]


def test_they_are_scikit_learns(answers):
    logits, labels, chances, truth = answers
    found, sure = scores(logits, labels), chances > 0.5
    assert found.precision.value == pytest.approx(precision_score(truth, sure, average="micro"))
    assert found.recall.value == pytest.approx(recall_score(truth, sure, average="micro"))
    assert found.auc.value == pytest.approx(roc_auc_score(truth, chances, average="micro"))
    assert found.loss.value == pytest.approx(log_loss(labels, chances))
    assert found.precision.n == int(sure.sum())
    assert found.recall.n == 400


def test_the_interval_of_the_area_is_that_of_drawing_images(answers):
    logits, labels, chances, truth = answers
    random = np.random.default_rng(0)
    draws = [
        roc_auc_score(truth[rows], chances[rows], average="micro")
        for rows in random.integers(0, 400, (500, 400))
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    found = scores(logits, labels).auc
    assert found.low == pytest.approx(low, abs=0.004)
    assert found.high == pytest.approx(high, abs=0.004)


def test_a_perfect_and_a_useless_model():
    labels = torch.tensor([0, 1, 2, 0])
    perfect = scores(100.0 * torch.eye(3)[labels], labels)
    assert (perfect.precision.value, perfect.recall.value, perfect.auc.value) == (1, 1, 1)
    assert perfect.loss.value == pytest.approx(0, abs=1e-12)
    useless = scores(torch.zeros(4, 3), labels)
    assert (useless.recall.value, useless.precision.n, useless.auc.value) == (0, 0, 0.5)
    assert useless.loss.value == pytest.approx(np.log(3))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.zeros(2, 3), [0]),
        (torch.zeros(2, 1), [0, 0]),
        (torch.zeros(0, 3), []),
        (torch.full((1, 3), float("nan")), [0]),
        (torch.zeros(1, 3), [3]),
    ],
)
def test_bad_input_is_one_line(logits, labels):
    with pytest.raises(InputError):
        scores(logits, torch.tensor(labels, dtype=torch.int64))
