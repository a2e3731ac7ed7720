"""Activation clustering: poison and clean images of a class are two clusters."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan
from typing import ClassVar, Literal, final

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Cost, Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.sanitize.base import (
    Filtered,
    Sanitizer,
    check_fit,
    conclude,
    judge_epochs,
    note,
    present,
)
from mithridate.defenses.sanitize.features import (
    GAP,
    LEAST,
    Side,
    Space,
    gap,
    poison_side,
    principal,
)
from mithridate.doubts import Doubt
from mithridate.errors import InputError, check_number, check_whole
from mithridate.rng import child
from mithridate.training import fit, predict

THRESHOLDS = {"gap": GAP, "silhouette": 0.15, "relative-size": 0.35, "exclusion": 1.0}
"""Analysis -> from which value on (up to which, for the last two) a class is suspicious."""
ROWS = 5000
"""Images of a class on which the silhouette is measured: it compares all pairs."""

Analysis = Literal["gap", "silhouette", "relative-size", "exclusion"]


@final
@dataclass(frozen=True, kw_only=True)
class ActivationClustering(Sanitizer):
    """Cuts each class in two by k-means and drops the suspect cluster where the cut is real.

    Chen et al. 2018, "Detecting backdoor attacks on deep neural networks by activation
    clustering", algorithm 1: penultimate activations of the images of a label, reduced to 10
    dimensions, 2-means, then an analysis. The paper's are `features="plain"`, `reduce="ica"`,
    `side="smaller"` and one of the analyses

    - "silhouette": how well two clusters describe the class; suspicious from 0.15 on, the upper
      end of the 0.10 to 0.15 that the paper calls reasonable;
    - "relative-size": the share of the smaller cluster, about a half in a clean class;
      suspicious below 0.35, which is not the paper's but the default of ART;
    - "exclusion" (exclusionary reclassification): a new model, trained without the suspect
      clusters, classifies them; l images as their label, p as the commonest other class;
      suspicious where l / p is below the paper's 1.

    Deviations, all settings: by default features are measured by how the other classes vary
    (`Space.of`); the analysis is "gap": the distance of the clusters along the line through
    their centres over the tighter one's standard deviation (`features.gap`), suspicious from
    6.5 on; the suspect cluster is the one with the clearer trace of another class
    (`features.poison_side`). Not settings: ICA is computed as whitened principal components,
    of which it is a rotation, to which k-means and silhouette are blind. k-means starts from
    halves along each axis and keeps the best, so that nothing depends on the order of rows.
    Images are taken class by class as labelled, where algorithm 1 goes by what the model predicts.
    "exclusion" leaves the suspect clusters of all classes out of one training, not of one each.

    The score is a place between the two centres, -1 to 1: difference of squared distances over
    the squared distance of the centres; above 0 is the suspect cluster.

    Args:
        features: "relative" or "plain".
        reduce: "pca" or "ica".
        dimensions: to reduce to.
        analysis: "gap", "silhouette", "relative-size" or "exclusion".
        threshold: of the analysis; None for the value above.
        side: what tells the suspect cluster, "trace" or "smaller" (always for "relative-size").
        epochs: of the training for "exclusion", at the defaults of `training.fit`; None for
            30,000 images' worth, but 3 to 30.

    Raises:
        InputError: a setting that is none of these, or out of range.

    >>> ActivationClustering(analysis="exclusion").limit
    1.0
    """

    about: ClassVar[About] = About(
        paper="Chen et al. 2018, algorithm 1",
        atlas=("AML.M0007",),
    )

    features: Literal["relative", "plain"] = "relative"
    reduce: Literal["pca", "ica"] = "pca"
    dimensions: int = 10
    analysis: Analysis = "gap"
    threshold: float | None = None
    side: Side = "trace"
    epochs: int | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("features", ("relative", "plain")),
            ("reduce", ("pca", "ica")),
            ("analysis", tuple(THRESHOLDS)),
            ("side", ("trace", "smaller")),
        ):
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} is one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        check_whole("dimensions", self.dimensions, low=1)
        if self.epochs is not None:
            check_whole("epochs", self.epochs, low=1)
        if self.threshold is not None:
            high = {"silhouette": 1.0, "relative-size": 0.5}.get(self.analysis, inf)
            check_number("threshold", self.threshold, low=0, high=high)

    @property
    def limit(self) -> float:
        """The threshold that applies."""
        return THRESHOLDS[self.analysis] if self.threshold is None else self.threshold

    def cost(self, sizes: Sizes) -> Work:
        """Features of every image; "exclusion" trains on most of them and asks about the others."""
        if self.analysis != "exclusion":
            return Work(forwards=sizes.train)
        epochs = self.epochs or judge_epochs(sizes.train)
        return Work(forwards=2 * sizes.train, trained=epochs * sizes.train)

    def filter(self, classifier: Classifier, data: ImageSet, *, rng: torch.Generator) -> Filtered:
        """See the class and `Sanitizer.filter`. Random: the rows of a silhouette, the training."""
        check_fit(classifier, data, LEAST)
        before = classifier.cost.queries
        space = Space(classifier, data)
        points, sides = {}, {}
        for c in present(data):
            x = space.of(c, relative=self.features == "relative")
            points[c] = principal(x, self.dimensions, whiten=self.reduce == "ica")
            side = two_means(points[c])
            rule: Side = "smaller" if self.analysis == "relative-size" else self.side
            if rule == "trace" and self.analysis == "gap" and _gap(points[c], side) < self.limit:
                rule = "smaller"  # the class will not be suspicious: no need to ask the model
            sides[c] = poison_side(classifier, data, space.rows[c], side, rule)
        trained = asked = 0
        if self.analysis == "exclusion":
            suspects = {c: space.rows[c][sides[c].poison] for c in sides}
            values, trained, asked = self._exclusion(suspects, classifier, data, rng)
        else:
            values = {
                c: self._value(points[c], sides[c].poison, child(rng, "silhouette", c))
                for c in sides
            }
        keep = torch.ones(len(data), dtype=torch.bool)
        score = torch.zeros(len(data), dtype=torch.float64)
        notes, doubts = [], []
        for c, (suspect, sure, why) in sides.items():
            small = self.analysis in ("relative-size", "exclusion")
            suspicious = values[c] < self.limit if small else values[c] >= self.limit
            if suspicious and not sure:
                doubts.append(Doubt("which-side", f"class {data.class_names[c]}: {why} was taken"))
            if suspicious:
                keep[space.rows[c][suspect]] = False
            own, other = points[c][suspect].mean(0), points[c][~suspect].mean(0)
            nearer = (points[c] - other).square().sum(1) - (points[c] - own).square().sum(1)
            score[space.rows[c]] = nearer / (own - other).square().sum()
            notes.append(note(data, keep, c, self.analysis, values[c], self.limit, suspicious, why))
        queries = classifier.cost.queries - before + trained + asked
        cost = Cost(queries=queries, gradients=trained)
        return conclude(self, data, keep, score, notes, cost, doubts)

    def _value(self, points: Tensor, suspect: Tensor, rng: torch.Generator) -> float:
        """The statistic of a class, where it takes no other class."""
        if self.analysis == "gap":
            return _gap(points, suspect)
        if self.analysis == "relative-size":
            return float(suspect.double().mean())
        if len(points) > ROWS:
            rows = torch.randperm(len(points), generator=rng)[:ROWS]
            points, suspect = points[rows], suspect[rows]
        if bool(suspect.all()) or not bool(suspect.any()):
            return nan
        return float(silhouette_score(points.numpy(), suspect.numpy()))

    def _exclusion(
        self,
        suspects: dict[int, Tensor],
        classifier: Classifier,
        data: ImageSet,
        rng: torch.Generator,
    ) -> tuple[dict[int, float], int, int]:
        """The statistic of each class; images that the new model was trained on, and asked."""
        rest = torch.ones(len(data), dtype=torch.bool)
        rest[torch.cat(list(suspects.values()))] = False
        epochs = self.epochs or judge_epochs(int(rest.sum()))
        random = child(rng, "exclusion")
        fresh = fit(classifier, data.subset(rest), epochs=epochs, rng=random, fresh=True)
        values = {}
        for c, rows in suspects.items():
            taken = predict(fresh, data, rows=rows.tolist()).bincount(minlength=data.classes)
            kept, taken[c] = int(taken[c]), 0
            other = int(taken.max())
            values[c] = kept / other if other else inf
        return values, epochs * int(rest.sum()), int((~rest).sum())


def _gap(points: Tensor, side: Tensor) -> float:
    return gap(points @ (points[side].mean(0) - points[~side].mean(0)), side)


def two_means(points: Tensor) -> Tensor:
    """2-means of points (n, d), n >= 2: bool (n,), some on each side.

    Lloyd's algorithm from the halves above and below 0 of each axis; the least inertia wins.

    >>> two_means(torch.tensor([[-1.0], [-0.9], [1.0], [1.1]])).int().tolist() in (
    ...     [0, 0, 1, 1], [1, 1, 0, 0])
    True
    """
    array = points.numpy()
    best, least = None, inf
    for axis in range(array.shape[1]):
        upper = array[:, axis] > 0
        start = np.stack([array[~upper].mean(0), array[upper].mean(0)])
        cut = KMeans(2, init=start, n_init=1, tol=0).fit(array)
        if cut.inertia_ < least:
            best, least = cut.labels_ == 1, cut.inertia_
    assert best is not None
    return torch.from_numpy(best)
