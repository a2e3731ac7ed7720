"""SPECTRE: poison shows once a class is measured by the covariance of its clean images."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import ClassVar, Literal, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Cost, Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.sanitize.base import Filtered, Sanitizer, check_fit, conclude, note
from mithridate.defenses.sanitize.features import LEAST, Space, principal
from mithridate.errors import InputError, check_number

WIDTHS = tuple(round((1 + i) ** 2) for i in range(10))
"""Numbers of principal axes that are tried, 1, 4 ... 100."""
TAU, EARLY, SLACK, SHIFT = 0.1, 10.0, 10.0, 3.0
"""Of the robust covariance: chance of failure, and the constants of its three tests."""
FILTERED, REMOVED = 2.0, 1.5
"""Shares of eps that may be left out of the covariance, and that are dropped."""


@final
@dataclass(frozen=True, kw_only=True)
class Spectre(Sanitizer):
    """Drops images that lie far out once their class is whitened by a robust covariance.

    Hayase et al. 2021, "SPECTRE: defending against backdoor attacks using robust statistics", as in
    the authors' code. A class's features on their first k principal axes; the covariance of what
    is left when the images are gone whose squares vary most in one direction of all products
    of two (Diakonikolas et al. 2017, at most 2 eps n of them); all of them whitened by it, to S
    of largest eigenvalue s; the score h' Q h of the quantum entropy, Q = exp(alpha (S - 1) /
    (s - 1)); and of k = 1, 4 ... 100 the one whose dropping makes the rest see the whole as
    strangest. `1.5 eps n` images go of the class that is strangest of all.

    Deviation: `classes="all"` takes as many out of every class, where poison is in each.

    Args:
        eps: the largest share of a class that may be poison, in (0, 2/3).
        classes: "strangest", or "all".
        alpha: of the entropy, at least 0: 0 is the length of h, infinity the first axis alone.

    Raises:
        InputError: a value out of range.

    >>> from torch import nn
    >>> model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), classes=2)
    >>> x = torch.randint(90, 110, (80, 1, 1, 2), generator=torch.Generator().manual_seed(0))
    >>> x[:4] += 100
    >>> data = ImageSet(x.byte(), [0] * 40 + [1] * 40, ["a", "b"])
    >>> Spectre(eps=0.07).filter(model, data, rng=torch.Generator()).dropped
    tensor([0, 1, 2, 3])
    """

    about: ClassVar[About] = About(paper="Hayase et al. 2021", atlas=("AML.M0007",))
    version: ClassVar[int] = 3

    eps: float = 0.1
    classes: Literal["strangest", "all"] = "strangest"
    alpha: float = 4.0

    def __post_init__(self) -> None:
        check_number("eps", self.eps, low=0, open_low=True)
        if self.eps >= 2 / 3:
            raise InputError(
                f"eps {self.eps:g} removes 1.5 eps, all of a class: give less than 2/3"
            )
        check_number("alpha", self.alpha, low=0)

    def cost(self, sizes: Sizes) -> Work:
        return Work(forwards=sizes.train)

    def filter(self, classifier: Classifier, data: ImageSet, *, rng: torch.Generator) -> Filtered:
        """See the class and `Sanitizer.filter`. Nothing in it is random."""
        check_fit(classifier, data, LEAST)
        before = classifier.cost.queries
        space = Space(classifier, data)
        found = {c: judged(space.of(c), self.eps, self.alpha) for c in space.rows}
        strangest = max(found, key=lambda c: found[c].entropy)
        keep = torch.ones(len(data), dtype=torch.bool)
        score = torch.zeros(len(data), dtype=torch.float64)
        for c, rows in space.rows.items():
            score[rows] = found[c].score
            if self.classes == "all" or c == strangest:
                keep[rows[found[c].gone]] = False
        notes = [
            note(data, keep, c, "quantum entropy", one.entropy, float("nan"))
            for c, one in found.items()
        ]
        cost = Cost(queries=classifier.cost.queries - before)
        return conclude(self, data, keep, score, notes, cost)


class Judged(NamedTuple):
    """Of a class: scores (n,), bool (n,) which go, and how strange it is."""

    score: Tensor
    gone: Tensor
    entropy: float


def judged(x: Tensor, eps: float, alpha: float) -> Judged:
    """Centred features of a class (n, F), on as many axes as tell most."""
    every = principal(x, WIDTHS[-1])
    best: Judged | None = None
    for width in sorted({min(width, every.shape[1]) for width in WIDTHS}):
        some = every[:, :width]
        clean = torch.ones(len(x), dtype=torch.bool) if width == 1 else robust(some, eps)
        score = _entropy(some, clean, alpha)[0]
        order = score.argsort(descending=True, stable=True)
        gone = torch.zeros(len(x), dtype=torch.bool)
        gone[order[: round(REMOVED * eps * len(x))]] = True
        entropy = _entropy(every, ~gone, alpha)[1]
        if best is None or entropy > best.entropy:
            best = Judged(score, gone, entropy)
    assert best is not None, "there is at least one axis"
    return best


def _entropy(x: Tensor, clean: Tensor, alpha: float) -> tuple[Tensor, float]:
    """Scores (n,) of rows (n, k) by the covariance of the clean ones, and their weighted spread."""
    white = x @ _root(x[clean].T.cov(correction=0).view(x.shape[1], -1))
    spread = white.T.cov().view(x.shape[1], -1)
    off = spread - torch.eye(len(spread), dtype=x.dtype)
    most = max(float(torch.linalg.matrix_norm(spread, 2)) - 1, 1e-9)
    weight = torch.linalg.matrix_exp(alpha * off / most)
    weight /= weight.trace()
    return ((white @ weight) * white).sum(1), float((spread * weight).sum())


def robust(x: Tensor, eps: float) -> Tensor:
    """Which rows (n, k) a covariance should rest on: bool (n,), all but at most 2 eps n.

    Diakonikolas et al. 2017, "Being robust (in high dimensions) can be practical", for covariances,
    with the constants of Hayase et al.'s code.
    """
    keep, direction = torch.ones(len(x), dtype=torch.bool), None
    spare = round(FILTERED * eps * len(x))
    limit = 1 + SLACK * eps * log(1 / eps) ** 2
    while spare > 0:
        rest = x[keep]
        n, width = rest.shape
        y = rest @ _root(rest.T @ rest / n)
        far = y.square().sum(1)
        bound = EARLY * width * log(n / TAU)
        if not bool((far >= bound).any()):
            size, direction = _most(y, direction)
            if size <= limit:
                break
            turned = direction.view(width, width)
            far = ((y @ (turned + turned.T) / 2) * y).sum(1) - turned.trace()
            far = (far / sqrt(2)).sub(far.div(sqrt(2)).median()).abs()
            bound = _cut(far, eps)
        out = (far > bound).nonzero()[:, 0]
        out = out[far[out].argsort(descending=True, stable=True)[:spare]]
        if len(out) == 0:
            break
        keep[keep.nonzero()[:, 0][out]] = False
        spare -= len(out)
    return keep


def _most(y: Tensor, start: Tensor | None) -> tuple[float, Tensor]:
    """The direction (k k,) in which the products of two of white rows (n, k) vary most."""
    n, width = y.shape
    identity = torch.eye(width, dtype=y.dtype)

    def times(v: NDArray[np.float64]) -> NDArray[np.float64]:
        matrix = torch.from_numpy(v.reshape(width, width))
        out = (y.T * ((y @ matrix) * y).sum(1)) @ y / n - matrix.trace() * identity
        return np.asarray(out.flatten())

    first = np.ones(width * width) if start is None else start.numpy()
    operator = LinearOperator((width * width,) * 2, matvec=times, dtype=np.float64)
    sizes, vectors = eigsh(operator, k=1, which="LA", v0=first, tol=1e-9)
    return float(sizes[0]), torch.from_numpy(vectors[:, 0].copy())


def _cut(far: Tensor, eps: float) -> float:
    """Where to cut distances: the first beyond `SHIFT`, less it, with enough of them below."""
    ordered = far.sort().values
    beyond = ordered - SHIFT
    tail = torch.where(
        beyond <= 10 * log(1 / eps), 1.0, 3 * eps / (beyond * beyond.clamp(min=2).log()).square()
    )
    below = torch.arange(1, len(far) + 1, dtype=far.dtype) / len(far)
    fits = ((beyond > 0) & (below >= tail)).nonzero()[:, 0]
    return float(beyond[fits[0]]) if len(fits) else float("inf")


def _root(spread: Tensor) -> Tensor:
    """The inverse square root of a covariance, over the directions in which there is any."""
    sizes, axes = torch.linalg.eigh(spread)
    there = sizes > 1e-10 * sizes[-1]
    scaled = torch.where(there, sizes.clamp(min=1e-300), torch.inf).rsqrt()
    root: Tensor = (axes * scaled) @ axes.T
    return root
