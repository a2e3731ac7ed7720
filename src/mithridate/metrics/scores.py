"""How good the probabilities of a model are: precision, recall, area under the curve, loss."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mithridate.errors import InputError
from mithridate.goals import as_labels
from mithridate.metrics.intervals import Interval, wilson
from mithridate.metrics.means import Mean, bootstrap_mean

SURE = 0.5
"""The probability above which a model is taken to say yes to a class."""


class Scores(NamedTuple):
    """What `scores` makes of a model's answers.

    Attributes:
        precision: of the images of which it is sure, those of the class that it is sure of.
        recall: of all images, those whose class it is sure of.
        auc: the area under the curve of true against false alarms of (image, class) pairs.
        loss: mean cross-entropy in nats.
    """

    precision: Interval
    recall: Interval
    auc: Mean
    loss: Mean


def scores(logits: Tensor, labels: Tensor) -> Scores:
    """Precision, recall, AUC and loss, each with its 95 % interval over images.

    Micro-averages of the K questions "is it this class?", as the Keras of Zhong et al. 2020 has
    them for one-hot labels (`Precision`, `Recall`, `AUC`): precision and recall at a probability of
    `SURE`, which at most one class of an image exceeds, so that both are shares of images.
    Deviations: the area is exact, where Keras adds up 200 thresholds, and the loss is
    not cut off at 16.1. The area's interval takes images as what is drawn, of each its one
    true pair and its K - 1 false ones together (clustered data, Obuchowski 1997), and is cut off
    at 0 and 1, which no area exceeds.

    Args:
        logits: finite, (N, K) with at least one image and two classes; *rejected* is one more.
        labels: the true classes, int64 (N,).

    Raises:
        InputError: another shape, not finite, or not class numbers.

    >>> import torch
    >>> found = scores(torch.tensor([[9.0, 0.0], [0.1, 0.0], [0.0, 9.0]]), torch.tensor([0, 1, 1]))
    >>> found.precision.k, found.precision.n, found.recall.k, round(found.auc.value, 3)
    (2, 3, 2, 0.889)
    """
    true = as_labels(labels, "labels").cpu()
    shape = tuple(logits.shape)
    if len(shape) != 2 or not shape[0] or shape[1] < 2 or shape[0] != len(true):
        raise InputError(f"logits are (N, classes), a row for each of {len(true)} labels: {shape}")
    if not bool(logits.isfinite().all()):
        raise InputError("logits are finite numbers")
    if int(true.max()) >= shape[1]:
        raise InputError(f"labels are below {shape[1]}, the width of the logits")
    logs = logits.detach().double().cpu().log_softmax(1)
    own = logs.gather(1, true[:, None])[:, 0]
    sure = logs.exp() > SURE
    hits = int((own.exp() > SURE).sum())
    auc = bootstrap_mean(_placements(logs.exp().numpy(), true.numpy()))
    assert auc.low is not None
    assert auc.high is not None
    return Scores(
        precision=wilson(hits, int(sure.sum())),
        recall=wilson(hits, len(true)),
        auc=replace(auc, low=max(0.0, auc.low), high=min(1.0, auc.high)),
        loss=bootstrap_mean(-own),
    )


def _placements(chances: NDArray[np.float64], true: NDArray[np.int64]) -> NDArray[np.float64]:
    """A number for each image whose mean is the area, and whose spread is that of the area.

    V, the share of false pairs below the image's true one; W, the mean share of true pairs above
    its false ones; V + W less the area, which is the mean of either. Ties count half.
    """
    rows = np.arange(len(true))
    yes = chances[rows, true]
    no = np.delete(chances.ravel(), rows * chances.shape[1] + true).reshape(len(true), -1)
    below = _share_below(np.sort(no, axis=None), yes)
    above = 1 - _share_below(np.sort(yes), no).mean(1)
    return np.asarray(below + above - below.mean())


def _share_below(of: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of sorted numbers below each value, equal ones by half.

    >>> _share_below(np.array([1.0, 2.0, 2.0, 4.0]), np.array([2.0]))
    array([0.5])
    """
    low, high = (np.searchsorted(of, values, side) for side in ("left", "right"))
    return np.asarray((low + high) / 2 / len(of))
