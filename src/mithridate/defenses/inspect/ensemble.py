"""The ensemble: several inspectors, and what their scores were for models of a known kind."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, ClassVar, final

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import (
    Comparison,
    Evidence,
    Halves,
    Inspector,
    Look,
    Progress,
    ranked,
    table_scores,
    tell,
)
from mithridate.doubts import Doubt
from mithridate.metrics.outliers import filled, pointed_at

FILE = "calibration.json"
MEMBERS: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("universal-perturbation", {}, False),
    ("universal-perturbation", {}, True),
    ("patch-scan", {}, False),
    ("patch-scan", {"side": 0.143, "contents": 4, "scanned": 2}, True),
    ("change-scan", {}, False),
)
"""Those that are asked: names, settings, and whether on the halves of the images exchanged."""
DRAWS = (1, 3)
"""Of images: the most that there are images for, as what pairs show depends on those drawn."""
PAIRS, REACH = "common changes and patches", "patches on all classes"
"""What all members but the last tell of pairs; and what the first patch scan tells of targets."""
FIRST_SCAN = 2
"""Its place."""
HARDLY = 0.9
"""Share of what the strongest change leads from which on a patch is shown before it."""
GRID, EACH = 7, 50
"""Cells along a side that images are compared by, and images of each class."""
LIKE = 0.35
"""How far the classes' mean images may lie from the zoo's, in deviations of single images."""
FAMILIES = CONVOLUTIONAL, LINEAR = "convolutional", "linear"
"""Families of networks, each calibrated on its own; the second are those without convolutions, or
with batch normalisation on a linear layer: their clean ones look more suspicious.
"""
OF = {
    CONVOLUTIONAL: "with convolutions and no normalised linear layer, nor one folded into it",
    LINEAR: "without convolutions or with batch normalisation on a linear layer",
}
UNKNOWN = ("layer_norm", "group_norm", "bmm", "transformer", "attention")
"""In the name of an operation: without convolutions there were none such in the zoo."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the scores of a zoo of clean and poisoned models make of a suspect's.

    Attributes:
        version: of the file.
        inputs: (centre, spread) of each `squashed` score over the zoo's clean models, by
            "SEARCH/TABLE/FORM".
        searches: the same of the largest deviation of each search.
        slope, bias: of the logistic regression on the searches' sum.
        most: the largest sum that it was fitted on.
        clean: log-odds of the clean models that were calibrated on, ascending.
        threshold: probability from which on there is an alarm.
        measured: how it did on models that were not calibrated on, for pages.
        usual: of each pair of classes in the zoo's clean networks, a table (K, K) for each kind of
            images of `pictures`.
        pictures: of each kind of images calibrated on the `shape`, the `mean` of each class's and
            the `spread` of all images' cells (`cells`).
        classes, images: calibrated on, and the fewest images of each class.
        accuracy: the least of the models that were calibrated on.
    """

    version: int
    inputs: Mapping[str, tuple[float, float]]
    searches: Mapping[str, tuple[float, float]]
    slope: float
    bias: float
    most: float
    clean: tuple[float, ...]
    threshold: float
    measured: Mapping[str, Any]
    usual: tuple[Sequence[Sequence[float]], ...]
    pictures: tuple[Mapping[str, Any], ...]
    classes: int
    images: int
    accuracy: float

    @staticmethod
    def of(values: Mapping[str, Any]) -> Calibration:
        """From what a JSON file holds."""
        listed: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return Calibration(**listed)

    def deviations(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Of each input from the zoo's clean models, in their own upward deviations."""
        return {
            name: (squashed(scores[name]) - centre) / spread
            for name, (centre, spread) in self.inputs.items()
        }

    def told(self, deviations: Mapping[str, float]) -> dict[str, float]:
        """How much each search tells: its largest deviation, in deviations of clean models' own.

        The largest, since a backdoor has one form; and no less than 0, since what one search
        does not see is nothing against what another does.
        """
        return {
            search: max(0.0, (max(largest_of(deviations, search).values()) - centre) / spread)
            for search, (centre, spread) in self.searches.items()
        }

    def log_odds(self, deviations: Mapping[str, float]) -> float:
        """Of being poisoned, at even odds before, by what all searches tell together."""
        return self.bias + self.slope * min(sum(self.told(deviations).values()), self.most)

    def probability(self, log_odds: float) -> float:
        """At even odds; never surer than one more network could have made it (Laplace's rule).

        Of so many poisoned ones, one more could have looked like any clean one, and the reverse.
        """
        known = self.measured["calibrated on"]
        least, most = -math.log(known["poisoned"] + 2), math.log(known["clean"] + 2)
        return 1 / (1 + math.exp(-min(max(log_odds, least), most)))

    def p_value(self, log_odds: float) -> float:
        """The conformal one: the share of clean models, the suspect among them, at least so high.

        Theirs are of deviations from the others alone.
        """
        above = sum(value >= log_odds for value in self.clean)
        return (1 + above) / (1 + len(self.clean))

    def in_words(self) -> str:
        """How often such a verdict was wrong, by the models that were tested once."""
        known = self.measured
        if "test" not in known:
            return "What the probability means: it was calibrated on a zoo of networks."
        counted = known["test"]
        return (
            f"How often such a verdict is wrong: of {counted['clean']} clean networks that nothing "
            f"was fitted to, {counted['false alarms']} were called poisoned; of "
            f"{counted['poisoned']} poisoned ones {counted['missed']} were missed, among them "
            f"{counted['one to one missed']} of the {counted['one to one']} that send one class to "
            f"one other (small networks of ten classes, MNIST, {OF[known['family']]})."
        )


def largest_of(deviations: Mapping[str, float], search: str) -> dict[str, float]:
    """Those of one search, the largest first."""
    own = {name: value for name, value in deviations.items() if name.startswith(f"{search}/")}
    return dict(sorted(own.items(), key=lambda item: -item[1]))


def squashed(score: float) -> float:
    """The logarithm of 1 + s, odd about 0: scores have long tails.

    >>> squashed(0.0), round(squashed(-1.0), 4)
    (0.0, -0.6931)
    """
    return math.copysign(math.log1p(abs(score)), score)


@lru_cache
def shipped(draws: int = DRAWS[0], family: str = CONVOLUTIONAL) -> Calibration:
    """The calibration that comes with this version, for so many draws of images and a family."""
    values = json.loads(resources.files(__package__).joinpath(FILE).read_text())
    return chosen(values, draws, family)


def chosen(values: Mapping[str, Any], draws: int, family: str) -> Calibration:
    """Of all that the file holds."""
    return Calibration.of(values["all"] | values["each"][f"{family}, {draws}"])


def draws_for(images: int) -> int:
    """How many draws so many images of each class, of the searched half, suffice for.

    >>> [draws_for(images) for images in (2, 10, 29, 30, 99)]
    [1, 1, 1, 3, 3]
    """
    return max(draws for draws in DRAWS if draws == 1 or draws * shipped().images <= images)


@final
@dataclass(frozen=True, kw_only=True)
class Ensemble(Inspector):
    """Several inspectors at once, and one probability, without any reference model.

    Each member looks at the suspect alone, and its scores are put beside those of a zoo of clean
    networks (`docs/results/zoo.txt`), in their deviations. Three searches count. The smallest
    common changes, on either half of the images, and two patch scans have one table of pairs, their
    mean, less what is usual of each pair in the zoo's clean networks: that a 4 is easily made a 9
    says nothing of a network. Of the large patches, how far the best leads all classes to one. And
    the changes of whole images. Of each the largest score counts, whichever form of a backdoor it
    is of; what they tell is added up, and a logistic regression over the zoo's clean and poisoned
    networks turns the sum into a probability at even odds. Beside it stands the conformal p-value:
    the share of the zoo's clean models that look as suspicious. The suspect's classes are found
    among the zoo's by their mean images, so that their order and names do not matter. Where there
    are images for several draws, the means of their tables count, beside those of the zoo's
    networks over as many draws: on average a clean network shows less.

    Where images, classes or the suspect are not like the zoo's, there is a doubt, and neither a
    probability nor a verdict: another size, another number of classes, fewer images, classes whose
    mean images lie apart, a linear model, attention without convolutions, gradients of zero, or an
    accuracy below the zoo's. There clean networks look poisoned: of nine that read digits inverted
    or on another ground nine did, a linear model, and one that rounds its images. Networks without
    convolutions, and those with batch normalisation on a linear layer, have a calibration of their
    own, as their clean ones look more suspicious.

    Args:
        controls, control_epochs: unused: the zoo is the clean side.
        alpha: unused; the zoo's threshold decides.

    >>> Ensemble().controls
    0
    """

    about: ClassVar[About] = About(
        paper="none: the project's own, its members name their papers",
        access=("gradient",),
        needs=("clean images",),
        atlas=("AML.M0008",),
        nist=("023",),
    )
    version: ClassVar[int] = 7
    statistic: ClassVar[str] = "Log-odds of being poisoned, beside the zoo's clean models"

    controls: int = 0

    def members(self, draws: int = 1) -> list[tuple[Inspector, int | None, bool]]:
        """Inspectors, each with its draw of images, and whether their halves are exchanged.

        Pairs are searched on every draw; the last is asked once, of all of them (None).
        """
        *pairs, last = MEMBERS
        each = [(one, draw) for draw in range(draws) for one in pairs] + [(last, None)]
        return [
            (component.create("inspectors", name, dict(settings)), draw, turned)
            for (name, settings, turned), draw in each
        ]

    def shown(self, data: ImageSet, rng: torch.Generator) -> list[Tensor]:
        """Rows of each draw: as many images of each class as the zoo's models were judged by.

        Draws are disjoint, and of the half that is searched on, so that what a change does is
        measured on others. There is one of both halves where that half is too small, and no more
        than one where the images get no verdict.
        """
        halves, each = Halves.split(data, rng), shipped().images
        fewest = min(len(rows) for rows in halves.search) if calibrated_for(data) else 0
        rows = [torch.cat(both) for both in zip(halves.search, halves.confirm, strict=True)]
        starts = range(0, each * draws_for(fewest), each)
        return [torch.cat([own[start : start + each] for own in rows]) for start in starts]

    def cost(self, sizes: Sizes) -> Work:
        """Of all members on all draws."""
        one = shipped().images * sizes.classes
        draws = draws_for(sizes.test // (2 * sizes.classes))
        drawn, whole = (sizes._replace(test=min(sizes.test, one * n)) for n in (1, draws))
        works = [
            member.cost(whole if draw is None else drawn) for member, draw, _ in self.members(draws)
        ]
        return Work(
            forwards=sum(work.forwards for work in works),
            gradients=sum(work.gradients for work in works),
        )

    def look(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Look:
        """The members' looks, each under its place."""
        rows = self.shown(data, rng)
        found: dict[str, Tensor] = {}
        members = self.members(len(rows))
        for place, (one, draw, turned) in enumerate(members):
            tell(progress, place, len(members), component.name_of(one))
            images = data.subset(torch.cat(rows) if draw is None else rows[draw])
            if turned:
                images = Halves.split(images, rng).exchanged(images)
            look = one.look(model, images, rng=rng)
            found |= {f"{place}/{name}": tensor for name, tensor in look.items()}
        return found

    def look_cost(self, sizes: Sizes) -> Work:
        """All of it."""
        return self.cost(sizes)

    def score(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        clean: Comparison,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Evidence:
        """The log-odds and the probability; what the most unusual score points to, and its change.

        A target that most sources lead to has no source. The change is the one of all that members
        propose that leads the most of the images shown to the target.
        """
        family, strange = family_of(layers(model, data.image_shape))
        calibration = shipped(draws_of(clean.own), family)
        found = self.parts(model, data, clean.own, rng=rng, progress=progress)
        tables = by_search(found, clean.own, likest(calibration, data)[1])
        deviations = calibration.deviations(all_scores(tables))
        tells = calibration.told(deviations)
        search = max(tells, key=tells.__getitem__)
        first, deviation = next(iter(largest_of(deviations, search).items()))
        _, table, form = first.split("/")
        shown = tables[search][table]
        source, target = pointed_at(shown, form)
        sources = [k for k in range(data.classes) if k != target] if form == "target" else [source]
        proposed = self.strongest(
            model, data.subset(torch.cat(self.shown(data, rng))), clean.own, sources, target
        )
        odds = calibration.log_odds(deviations)
        unlike = [
            *differences(calibration, data),
            *strange,
            *weak(calibration, part(clean.own, len(found) - 1)["before"]),
            *masked(part(clean.own, 0)["change"]),
        ]
        words = f"{in_words(first, deviation)} {calibration.in_words()}"
        return Evidence(
            statistic=odds,
            scores=tells,
            tables={search: shown},
            probability=None if unlike else calibration.probability(odds),
            p_value=calibration.p_value(odds),
            threshold=None if unlike else calibration.threshold,
            null=f"not calibrated: {'; '.join(unlike)}" if unlike else words,
            null_values=calibration.clean,
            source=None if form == "target" else source,
            target=target,
            **proposed,
            ranking=ranked(shown),
            pictures={"pair_scores": shown},
            parts=tuple(
                (name, one)
                for (name, *_), one in zip(
                    MEMBERS, [*found[: len(MEMBERS) - 1], found[-1]], strict=True
                )
            ),
            doubts=tuple(outside(unlike)),
        )

    def strongest(
        self, model: Classifier, data: ImageSet, looks: Look, sources: Sequence[int], target: int
    ) -> Mapping[str, Any]:
        """The proposal for any of the sources that leads most of all their images to the target.

        A patch goes before a change of whole images that leads hardly more: it says where.
        """
        x, _ = data.batch(torch.isin(data.labels, torch.tensor(sources)))
        found: list[tuple[float, Mapping[str, Any]]] = [(0.0, {})]
        for place, (one, *_) in enumerate(self.members(draws_of(looks))):
            for source in sources:
                proposal = one.proposed(part(looks, place), source, target, data.image_shape)
                if proposal:
                    led = model.labels(proposal["change"].apply(x).to(model.device)) == target
                    found.append((float(led.float().mean()), proposal))
        most = max(share for share, _ in found)
        best = [one for one in found if one[0] >= HARDLY * most]
        return max(best, key=lambda one: ("mask" in one[1], one[0]))[1]

    def parts(
        self,
        model: Classifier,
        data: ImageSet,
        looks: Look,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> list[Evidence]:
        """What each member says of the suspect, from its looks."""
        found: list[Evidence] = []
        members = self.members(draws_of(looks))
        for place, (one, *_) in enumerate(members):
            tell(progress, place, len(members), component.name_of(one))
            alone = Comparison(models=(), looks=(), own=part(looks, place))
            found.append(one.score(model, data, clean=alone, rng=rng))
        return found


def draws_of(looks: Look) -> int:
    """How many draws of images looks are of."""
    return max(int(name.split("/")[0]) for name in looks) // (len(MEMBERS) - 1)


def part(looks: Look, place: int) -> Look:
    """One member's look."""
    start = f"{place}/"
    return {name[len(start) :]: one for name, one in looks.items() if name.startswith(start)}


def by_search(
    found: Sequence[Evidence], looks: Look, usual: Tensor
) -> dict[str, Mapping[str, Tensor]]:
    """Tables of pairs (K, K): the mean of all that search pairs, less the usual; `reach`; changes.

    Of `reach` it is the mean of all draws.
    """
    places = range(FIRST_SCAN, len(found) - 1, len(MEMBERS) - 1)
    reach = torch.stack([part(looks, place)["reach"] for place in places]).mean(0)
    return {
        PAIRS: {"pairs": together(found) - usual},
        REACH: {"reach": reach},
        MEMBERS[-1][0]: found[-1].tables,
    }


def together(found: Sequence[Evidence]) -> Tensor:
    """The mean of the tables of all that search pairs, (K, K)."""
    return torch.stack([filled(next(iter(one.tables.values()))) for one in found[:-1]]).mean(0)


def all_scores(tables: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
    """Of all searches, by "SEARCH/TABLE/FORM"; of `REACH` there is one form."""
    return {
        f"{search}/{name}": value
        for search, own in tables.items()
        for name, value in table_scores(own).items()
        if search != REACH or name.endswith("/target")
    }


def in_words(name: str, deviation: float) -> str:
    """What the most unusual score is of.

    >>> in_words("change-scan/times 0.3/target", 4.21)[:57]
    'What tells most: change-scan (times 0.3), of one target: '
    """
    search, table, form = name.split("/")
    of = {"pair": "of one pair of classes", "target": "of one target", "all": "of all classes"}
    return (
        f"What tells most: {search} ({table}), {of[form]}: {deviation:.1f} deviations above the "
        "zoo's clean networks."
    )


def recognised(before: Tensor) -> float:
    """The mean over classes of the share of images that are recognised, of labels given (K, K)."""
    return float(before.diagonal().mean())


def weak(calibration: Calibration, before: Tensor) -> list[str]:
    """Whether the suspect recognises fewer of the images than those that were calibrated on."""
    right = recognised(before)
    if right >= calibration.accuracy:
        return []
    return [f"{right:.0%} of the images recognised, where {calibration.accuracy:.0%} were had"]


def masked(changes: Tensor) -> list[str]:
    """Whether gradients led nowhere: no change (pairs, C, H, W) was grown for most pairs.

    A clean network that rounds its images first stood at 0.71.
    """
    still = float((changes.flatten(1) == 0).all(1).float().mean())
    return [f"gradients of zero for {still:.0%} of the pairs of classes"] if still > 0.5 else []


class Layers(TorchDispatchMode):
    """Which operations tensors go through: names, and dimensions of the first tensor of each."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = next((one.dim() for one in args if isinstance(one, Tensor)), 0)
        self.seen.append((func.overloadpacket.__name__, first))
        return func(*args, **(kwargs or {}))


def layers(model: Classifier, shape: tuple[int, int, int]) -> list[tuple[str, int]]:
    """What images go through, however the model was written."""
    passed = Layers()
    with torch.no_grad(), passed:
        model.logits(torch.full((2, *shape), 0.5, device=model.device))
    return passed.seen


def family_of(seen: Sequence[tuple[str, int]]) -> tuple[str, list[str]]:
    """Which family a network is of, by what its images go through; and why it is of none.

    Batch normalisation that somebody has folded into its layer is not seen.

    >>> family_of([("convolution", 4), ("native_batch_norm", 4), ("addmm", 1)])
    ('convolutional', [])
    >>> family_of([("convolution", 4), ("addmm", 1), ("native_batch_norm", 2)])[0]
    'linear'
    >>> family_of([("addmm", 1)])
    ('linear', ['a network without convolutions or hidden layers'])
    """
    names = [name for name, _ in seen]
    if any("convolution" in name for name in names):
        normed = any("batch_norm" in name and size < 4 for name, size in seen)
        return (LINEAR if normed else CONVOLUTIONAL), []
    if any(part in name for part in UNKNOWN for name in names):
        return LINEAR, ["a network without convolutions and with attention or layer normalisation"]
    if sum(name in ("addmm", "mm") for name in names) < 2:
        return LINEAR, ["a network without convolutions or hidden layers"]
    return LINEAR, []


def cells(data: ImageSet) -> tuple[Tensor, Tensor]:
    """In a grid of cells the mean of each class (K, G) and the deviation of single images (G,)."""
    rows = [data.of_class(label)[:EACH] for label in range(data.classes)]
    small = torch.nn.functional.adaptive_avg_pool2d(data.batch(torch.cat(rows))[0], GRID).flatten(1)
    means = [own.mean(0) for own in small.split_with_sizes([len(own) for own in rows])]
    return torch.stack(means), small.std(0)


def likest(calibration: Calibration, data: ImageSet) -> tuple[float, Tensor]:
    """How far the classes' mean images lie from the nearest zoo's, and what is usual of them.

    Each class is taken for another one of the zoo's, so that all together lie nearest. The distance
    is infinite where there is no zoo of so many classes and of such images.

    Returns:
        Distance, root mean square in deviations of single images; table of pairs (K, K).
    """
    best = math.inf, torch.zeros(data.classes, data.classes)
    for one, table in zip(calibration.pictures, calibration.usual, strict=True):
        alike = tuple(one["shape"]) == tuple(data.image_shape) and len(one["mean"]) == data.classes
        if not alike or 0 in torch.bincount(data.labels, minlength=data.classes):
            continue
        mean, spread, usual = map(torch.tensor, (one["mean"], one["spread"], table))
        far = ((cells(data)[0][:, None] - mean) / spread).square().mean(2)
        rows, order = linear_sum_assignment(far.numpy())
        distance = float(far[rows, order].mean().sqrt())
        best = min(best, (distance, usual[order][:, order]), key=lambda found: found[0])
    return best


def differences(calibration: Calibration, data: ImageSet) -> list[str]:
    """In what the images and classes are not those that were calibrated on; empty: in nothing."""
    unlike = []
    if data.classes != calibration.classes:
        unlike.append(f"{data.classes} classes, not {calibration.classes}")
    fewest = int(torch.bincount(data.labels, minlength=data.classes).min())
    if fewest < calibration.images:
        unlike.append(f"{fewest} images of a class, where {calibration.images} were had")
    shape = tuple(data.image_shape)
    if shape not in [tuple(one["shape"]) for one in calibration.pictures]:
        unlike.append(f"images of {' x '.join(map(str, shape))}")
    distance, _ = likest(calibration, data)
    if LIKE < distance < math.inf:
        text = f"classes whose mean images lie {distance:.2f} deviations from theirs"
        unlike.append(f"{text}, where {LIKE} is the most")
    return unlike


def outside(unlike: Sequence[str]) -> list[Doubt]:
    """The doubt of a suspect that is unlike the zoo's models."""
    text = f"the suspect is unlike the models that this was calibrated on: {'; '.join(unlike)}"
    return [Doubt("outside-calibration", text)] if unlike else []


def calibrated_for(data: ImageSet) -> bool:
    """Whether `Ensemble` gives a verdict on models of such images."""
    return not differences(shipped(), data)


def inspector_for(data: ImageSet) -> tuple[str, str]:
    """Of a suspect without references: "ensemble" for images that it is calibrated for.

    Else "bias-maps", which train clean models; and why.

    >>> inspector_for(ImageSet.from_float(torch.zeros(2, 1, 8, 8), torch.arange(2), ["a", "b"]))[0]
    'bias-maps'
    """
    unlike = differences(shipped(), data)
    if not unlike:
        return "ensemble", ""
    return "bias-maps", (
        f"The ensemble is not calibrated for these test images: {'; '.join(unlike)}. Bias maps are "
        "taken, beside clean models trained for it. (outside-calibration)"
    )
