"""Features of a training set, class by class, and where one class falls into two."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.defenses.sanitize.base import present
from mithridate.errors import NothingAssessedError

BATCH = 1024
BLOCK = 4096
"""Features taken to float64 at once."""
LEAST = 10
"""Images a class needs."""
GAP = 6.5
"""Gap from which on a class falls apart: see `gap`, and docs/decisions for how it was chosen."""
SMALLEST = 0.01
"""Share of its class that a side needs to be more than a few odd images."""
UNSURE = 0.2
"""Difference of two sides' traces, in standard deviations, below which it decides nothing."""

Side = Literal["trace", "smaller"]


class Space:
    """The penultimate activations of a set, and how far each class differs from the others.

    Holds them on the CPU: N x F x 4 bytes, 120 MB for the 60,000 images of MNIST and 500 features;
    an F x F matrix besides. A class at a time is taken to float64. Where there are more features
    than images they are replaced by N coordinates in which all images lie as before (`isometric`):
    every figure that follows is the same, up to rounding.

    Args:
        classifier: with a linear last layer.
        data: labels say which class an image is in.

    Raises:
        NothingAssessedError: features that are not finite, or the same for all of a class.

    >>> from torch import nn
    >>> model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), classes=2)
    >>> x = torch.arange(24, dtype=torch.uint8).reshape(6, 1, 2, 2) ** 2
    >>> Space(model, ImageSet(x, [0, 1] * 3, ["a", "b"])).of(0).shape
    torch.Size([3, 4])
    """

    def __init__(self, classifier: Classifier, data: ImageSet) -> None:
        parts = [classifier.features(x.to(classifier.device)).cpu() for x, _ in data.batches(BATCH)]
        self.features = torch.cat(parts).float()
        del parts
        self.wide = self.features.shape[1]
        if not bool(self.features.isfinite().all()):
            raise NothingAssessedError(
                "the model's features are NaN or infinite: nothing can be said of the images"
            )
        if len(self.features) < self.wide:
            self.features = isometric(self.features)
        self.rows: dict[int, Tensor] = {}
        width = self.features.shape[1]
        self._spread = torch.zeros(width, width, dtype=torch.float64)
        for c in present(data):
            self.rows[c] = (data.labels == c).nonzero()[:, 0]
            x = self._centred(c)
            if float(x.abs().max()) < 1e-6:
                raise NothingAssessedError(
                    f"the features of all images of class {c} ({data.class_names[c]}) are the "
                    "same: the last hidden layer is dead, or the images are copies of one"
                )
            self._spread += x.T @ x / len(x)

    def of(self, c: int, *, relative: bool = False) -> Tensor:
        """Centred features of a class, float64 (n, F), in the order of `rows[c]`.

        Args:
            relative: measured by how the other classes vary: whitened by the mean of their
                covariances, to which its mean variance is added on the diagonal. A direction
                in which the other classes hardly vary counts for more, and one in which all
                vary for less. A class that is alone stays as it is.
        """
        x = self._centred(c)
        if not relative or len(self.rows) < 2:
            return x
        others = (self._spread - x.T @ x / len(x)) / (len(self.rows) - 1)
        others.diagonal().add_(others.trace() / self.wide)
        root = torch.linalg.cholesky(others)
        whitened: Tensor = torch.linalg.solve_triangular(root, x.T, upper=False).T
        return whitened

    def _centred(self, c: int) -> Tensor:
        x = self.features[self.rows[c]].double()
        return x - x.mean(0)


def isometric(x: Tensor) -> Tensor:
    """Rows (n, F) in n coordinates around their mean, float64: all inner products are the same.

    From the n x n Gram matrix, summed up a block of features at a time.

    >>> isometric(torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]])).diff(dim=0).norm().item()
    5.0
    """
    gram = torch.zeros(len(x), len(x), dtype=torch.float64)
    for block in torch.split(x, BLOCK, 1):
        part = block.double()
        part -= part.mean(0)
        gram.addmm_(part, part.T)
    sizes, axes = torch.linalg.eigh(gram)
    out: Tensor = axes * sizes.clamp(min=0).sqrt()
    return out


def principal(x: Tensor, dimensions: int, *, whiten: bool = False) -> Tensor:
    """Projections of centred rows (n, F) on their first principal axes: (n, at most dimensions).

    Args:
        whiten: each to unit variance. Independent components (ICA) are a rotation of these,
            so distances, and all that rests on distances alone, are those of ICA.

    >>> principal(torch.tensor([[3.0, 1.0], [-3.0, -1.0]]), 1).abs().flatten()
    tensor([3.1623, 3.1623])
    """
    few = len(x) < x.shape[1]  # then the axes of the smaller matrix give the projections at once
    variances, axes = torch.linalg.eigh((x @ x.T if few else x.T @ x) / len(x))
    variances, axes = variances.flip(0)[:dimensions], axes.flip(1)[:, :dimensions]
    there = variances > 1e-12 * variances[0]
    variances, axes = variances[there], axes[:, there]
    out: Tensor = axes * (len(x) * variances).sqrt() if few else x @ axes
    if whiten:
        out /= variances.sqrt()
    return out


def best_cut(values: Tensor) -> float:
    """Where to cut a line so that the two sides differ most (Otsu 1979): k-means in one dimension.

    >>> best_cut(torch.tensor([0.0, 1.0, 8.0, 10.0]))
    4.5
    """
    ordered = values.double().sort().values
    n = len(ordered)
    below = torch.arange(1, n, dtype=torch.float64)
    sums = ordered.cumsum(0)[:-1]
    difference = sums / below - (ordered.sum() - sums) / (n - below)
    at = int((below * (n - below) * difference.square()).argmax())
    return float((ordered[at] + ordered[at + 1]) / 2)


def gap(values: Tensor, side: Tensor) -> float:
    """How far two sides lie apart: distance of their means over the smaller standard deviation.

    Values evenly spread and cut in the middle give sqrt(12) = 3.5, a normal distribution 2.6,
    an exponential one 4.5: two sides of one thing. 0 where a side has fewer than `SMALLEST`
    of the values or fewer than 5.

    Args:
        values: (n,).
        side: bool (n,).

    >>> x = torch.linspace(0, 1, 1001)
    >>> round(gap(x, x > 0.5), 1)
    3.5
    """
    one, two = values[side].double(), values[~side].double()
    if min(len(one), len(two)) < max(5, SMALLEST * len(values)):
        return 0.0
    spread = min(float(one.std(correction=0)), float(two.std(correction=0)))
    apart = abs(float(one.mean() - two.mean()))
    return apart / max(spread, 1e-9 * apart, 1e-30)


class PoisonSide(NamedTuple):
    """Which side is taken for poison: bool (n,), whether that is sure, and why."""

    poison: Tensor
    sure: bool
    why: str


def poison_side(
    classifier: Classifier, data: ImageSet, rows: Tensor, side: Tensor, rule: Side
) -> PoisonSide:
    """Which of the two sides of a class is the poison.

    By size: the smaller, as both papers have it. They assume that less than half of a class is
    poisoned; with a tenth of all other classes of ten sent to one, it is already 47 %.

    By trace: the side that the model takes for *some* other class most clearly. Poison was
    another class's image, or was pushed toward one, and of that something is left: the lead of
    the second choice over the third is large, whereas the model is undecided between the
    other classes for the target's own images. It assumes that the model, apart from the
    trigger, still tells classes apart. Where both sides are alike in this (less than `UNSURE`
    standard deviations), or there are fewer than three classes, size decides, unsurely.

    Args:
        rows: of one class (n,).
        side: bool (n,), some on each side.
    """
    smaller = side if 2 * int(side.sum()) <= len(side) else ~side
    if rule == "smaller":
        return PoisonSide(smaller, True, "the smaller side")
    if data.classes < 3:
        return PoisonSide(smaller, False, "the smaller side, for want of a third class")
    parts = []
    for part in torch.split(rows, BATCH):
        x, labels = (tensor.to(classifier.device) for tensor in data.batch(part))
        with torch.no_grad():
            logits = classifier.logits(x).scatter(1, labels[:, None], -torch.inf)
        best = logits.topk(2, dim=1).values
        parts.append((best[:, 0] - best[:, 1]).double().cpu())
    lead = torch.cat(parts)
    difference = float(lead[side].mean() - lead[~side].mean())
    if abs(difference) <= UNSURE * float(lead.std(correction=0)):
        return PoisonSide(smaller, False, "the smaller side, as both look like other classes alike")
    chosen = side if difference > 0 else ~side
    return PoisonSide(chosen, True, "the side with the clearer trace of another class")
