"""Which conventions does a model follow? Clean accuracy under each, as evidence alone.

The conventions are those that people break unawares: the range of pixels, a normalisation that is
missing, another's, or done twice, the order of channels and of classes, the size and the mode of
the images, and probabilities taken for logits. None is applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.data.decode import Fit
from mithridate.doubts import Doubt
from mithridate.errors import InputError, NothingAssessedError, one_line
from mithridate.metrics import Interval, accuracy, chance_doubts, confusion, mcnemar, pairs, wilson
from mithridate.models.factory import Shape
from mithridate.models.open import SHAPES, in_order_of, normalised

LOOK = 128
"""Images on which every hypothesis is tried; the best few are measured on all asked for."""
FEW = 4
"""Images whose outputs tell what the outputs are."""
BEST = 4
SURE = 0.01
"""A hypothesis is better than what was given where McNemar's exact test says so at this level."""
TIE = 0.2
"""Two are as good as each other where the test gives more: then the file's own, or the one of the
lesser loss, is the better explanation."""
ZOOM = 8
"""Sizes are tried up to so many times that of the data, where the model takes the data's own."""
SIZES = (16, 20, 24, 48, 72, 128, 160, 192, 240, 256, 300, 384, 448, 512)
"""Heights and widths that are tried beside those of `SHAPES`."""
PLACES = 3
"""So many sizes and modes that the model takes are enough."""

KNOWN: dict[int, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    1: {
        "normalised as MNIST": ((0.1307,), (0.3081,)),
        "normalised as Fashion-MNIST": ((0.286,), (0.353,)),
    },
    3: {
        "normalised as ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "normalised as CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
        "normalised as CIFAR-10, deviations of means": (
            (0.4914, 0.4822, 0.4465),
            (0.2023, 0.1994, 0.201),
        ),
        "normalised as CIFAR-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        "normalised as CLIP": ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),
    },
}
"""Channels -> name -> mean and deviation of pixels in [0, 1] that people normalise with."""

Opener = Callable[[Shape], Classifier]
"""Opens the model for images (C, H, W), with nothing said of pixels; may raise InputError."""


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """What may be so.

    Attributes:
        pixels: keywords of `normalised`; of the file where there are none.
        fit: what the images are brought to.
        classes: "data" where the model's order of classes is the data's whatever their names.
        outputs: what the module's outputs are, where it is not what was stated.
    """

    name: str
    pixels: Mapping[str, Any] = field(default_factory=dict)
    fit: Fit = field(default_factory=Fit)
    classes: str | None = None
    outputs: str | None = None

    def options(self) -> dict[str, str]:
        """Option, without its dashes -> the words that state it.

        >>> Hypothesis(name="", pixels={"input_range": (0, 255)}).options()
        {'input-range': '0,255'}
        """
        words = {
            key.replace("_", "-"): value
            if isinstance(value, str)
            else ",".join(f"{number:.6g}" for number in value)
            for key, value in self.pixels.items()
        }
        rest = {"classes": self.classes, "outputs": self.outputs}
        return words | self.fit.words() | {key: word for key, word in rest.items() if word}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A hypothesis, and what it comes to; `problem` says why it cannot be tried.

    Attributes:
        right: bool (n,), which images were classified rightly.
        loss: mean cross-entropy, which tells apart what accuracy does not; at the temperature at
            which it is least, so that being more or less sure of the same answers counts nothing.
        doubts: of an accuracy near or below chance.
        permuted: the accuracy with the classes in another order, which was estimated on every
            second image and is counted on the others.
        order: that order, from all images: the data's class of each of the model's.
    """

    hypothesis: Hypothesis
    accuracy: Interval | None = None
    right: Tensor = field(default_factory=lambda: torch.zeros(0), repr=False)
    loss: float = float("inf")
    doubts: tuple[Doubt, ...] = ()
    permuted: Interval | None = None
    order: tuple[int, ...] = ()
    problem: str = ""

    @property
    def value(self) -> float:
        """The accuracy; -1 where there is none."""
        return -1.0 if self.accuracy is None else self.accuracy.value


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was tried, and what follows.

    Attributes:
        given: the conventions that the user stated, or the file.
        trials: all others, the best first; those on fewer images say so by their n.
        best: `given`, unless another is better beyond chance (`SURE`).
        outputs: "logits", "probabilities", "log-probabilities", "sigmoids" of each class, or
            "sigmoid" of two classes: what the outputs are.
        options: what states `best`, and the outputs where they were not given rightly.
        order: names of the classes in the order in which far more images would be right, and that
            accuracy. Evidence only: an order that was fitted to the labels is no answer.
        notes: what else was noticed.
    """

    given: Trial
    trials: tuple[Trial, ...]
    best: Trial
    outputs: str
    options: Mapping[str, str]
    order: tuple[tuple[str, ...], Interval] | None
    notes: tuple[str, ...]


def kind_of_outputs(raw: Tensor) -> str:
    """What outputs (N, K) are: rows of probabilities, of their logarithms, sigmoids, or logits.

    >>> x = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
    >>> [kind_of_outputs(out) for out in (x, x.softmax(1), x.log_softmax(1), x.sigmoid())]
    ['logits', 'probabilities', 'log-probabilities', 'sigmoids']
    """
    if bool(((raw >= 0) & (raw <= 1)).all()):
        return "probabilities" if bool(((raw.sum(1) - 1).abs() < 1e-4).all()) else "sigmoids"
    if bool((raw <= 0).all()) and bool((raw.logsumexp(1).abs() < 1e-4).all()):
        return "log-probabilities"
    return "logits"


def taken_for(model: Classifier, outputs: str) -> Classifier:
    """The model, what its module returns taken for something else; nothing is asked of it.

    >>> taken_for(Classifier(torch.nn.Flatten(), classes=2), "probabilities").outputs
    'probabilities'
    """
    return Classifier(
        model.module,
        bounds=model.input_range,
        classes=model.class_names,
        image_shape=model.image_shape,
        outputs=outputs,
        info=model.info,
        gradients=model.gradients,
    )


def diagnose(
    opener: Opener,
    data: ImageSet,
    *,
    given: Hypothesis,
    stated: bool = False,
    samples: int = 1000,
    progress: Callable[[int, int, str], None] | None = None,
) -> Diagnosis:
    """Clean accuracy of a model under each hypothesis that its images allow.

    Args:
        data: test images as their files hold them, of 1 or 3 channels.
        given: what the user states.
        stated: the class names are the user's.
        samples: images, evenly spaced, that the best few are measured on.

    Raises:
        InputError: the model cannot be opened for any size of images; why not for the data's own.
    """
    look = _Look(opener, data, given, stated, samples, progress)
    places, problem = look.places()
    if not places:
        raise InputError(problem)
    trials = [
        look.trial(model, replace(one, fit=fit, outputs=look.outputs), LOOK)
        for fit, model in places
        for one in hypotheses(model, fit, look)
    ]
    if places[0][0] == Fit():
        trials += look.sizes(places[0][1], trials)
    first = look.given(places)
    chosen = sorted(trials, key=lambda t: -t.value)[:BEST]
    chosen += sorted(trials, key=lambda t: -(t.permuted.value if t.permuted else -1))[:2]
    rest = [t for t in trials if not any(t is c for c in chosen)]
    models = dict(places)
    finals: dict[str, Trial] = {}
    for one in chosen:
        fit = one.hypothesis.fit
        model = models.get(fit, places[0][1])
        finals[str(one.hypothesis.options())] = look.trial(model, one.hypothesis, samples)
    ranked = sorted(finals.values(), key=lambda t: (-t.value, t.loss))
    tied = [t for t in ranked if not _better(ranked[0], t, TIE)]
    best = min(tied, key=lambda t: (bool(t.hypothesis.pixels), t.loss))
    if not _better(best, first, SURE):
        best = first
    whole = [*ranked, *sorted(rest, key=lambda t: -t.value)]
    same = first.hypothesis.options()
    others = tuple(t for t in whole if t.hypothesis.options() != same)
    return look.concluded(places[0][1], first, others, best)


def hypotheses(model: Classifier, fit: Fit, look: _Look) -> Iterator[Hypothesis]:
    """What is tried of a model of such images, the simplest first."""
    count = 3 if fit.mode == "RGB" else 1 if fit.mode == "L" else look.shape[0]
    unit = {} if model.input_range == (0, 1) else {"input_range": (0.0, 1.0)}
    known = dict(KNOWN.get(count, {}))
    known["normalised as these images"] = look.statistics(fit)
    pixels: dict[str, dict[str, Any]] = {"as the file says": {}}
    for low, high in ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)):
        if (low, high) != model.input_range:
            pixels[f"pixels {low:g} to {high:g}"] = {"input_range": (low, high)}
    pixels |= {n: {**unit, "mean": mean, "std": std} for n, (mean, std) in known.items()}
    for name, (mean, std) in {**known, "normalised by 0.5": ((0.5,), (0.5,))}.items():
        undone = {"mean": tuple(_short(-m / s) for m, s in zip(mean, std, strict=True))}
        undone["std"] = tuple(_short(1 / s) for s in std)
        pixels[f"{name} twice"] = {**unit, **undone}
    if count == 3:
        caffe = {"mean": (123.68, 116.779, 103.939), "std": (1.0,)}
        pixels["pixels 0 to 255, less ImageNet's mean"] = {"input_range": (0.0, 255.0), **caffe}
    for name, keywords in pixels.items():
        yield Hypothesis(name=name, pixels=keywords)
        if count == 3 and fit.mode is None:  # of a grey image all channels are alike
            turned = {k: v[::-1] if k in ("mean", "std") else v for k, v in keywords.items()}
            yield Hypothesis(name=f"{name}, blue first", pixels={**turned, "channels": "bgr"})
    if look.reorders(model):
        yield Hypothesis(name="classes in the data's order", classes="data")


class _Look:
    """The images of one diagnosis, brought to each size and mode once."""

    def __init__(
        self,
        opener: Opener,
        data: ImageSet,
        given: Hypothesis,
        stated: bool,
        samples: int,
        progress: Callable[[int, int, str], None] | None,
    ) -> None:
        self.opener, self.data, self.stated, self.asked = opener, data, stated, given
        self.shape = data.image_shape
        count = min(samples, len(data))
        self.rows = torch.arange(count) * len(data) // count
        self.labels = data.labels[self.rows]
        self.raw = data.raw(self.rows).numpy()
        self.images: dict[Fit, Tensor] = {}
        self.progress = progress
        self.tried = 0
        self.unmatched = ""
        self.outputs: str | None = None
        """What the outputs are, where that is not what was stated: all trials go by it."""

    def x(self, fit: Fit) -> Tensor:
        """The images, uint8 (n, C, H, W)."""
        if fit not in self.images:
            self.images[fit] = torch.from_numpy(fit.pixels(self.raw))
        return self.images[fit]

    def shape_of(self, fit: Fit) -> Shape:
        channels = {"RGB": 3, "L": 1}.get(fit.mode or "", self.shape[0])
        return (channels, *(fit.size or self.shape[1:]))

    def fit_of(self, shape: Shape) -> Fit:
        """What brings the images to (C, H, W)."""
        size = None if shape[1:] == self.shape[1:] else (shape[1], shape[2])
        mode = None if shape[0] == self.shape[0] else "RGB" if shape[0] == 3 else "L"
        return Fit(size, mode)

    def statistics(self, fit: Fit) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel of these images."""
        x = self.x(fit).double() / 255
        std = x.std((0, 2, 3)).clamp(min=1e-3)
        return tuple(map(_short, x.mean((0, 2, 3)).tolist())), tuple(map(_short, std.tolist()))

    def places(self) -> tuple[list[tuple[Fit, Classifier]], str]:
        """Sizes and modes of the images that the model takes, with it; why not the data's own."""
        model, problem = self._opened(Fit())
        if model is not None and not problem:
            return [(Fit(), model)], ""
        if model is not None and model.image_shape is not None:
            shapes = [model.image_shape]
        else:
            count, height, width = self.shape
            usual = [(h, w) for _, h, w in SHAPES] + [(size, size) for size in SIZES]
            sizes = sorted(dict.fromkeys([(height, width), *usual]), key=lambda s: s[0] != height)
            shapes = [(c, *size) for c in (count, 4 - count) for size in sizes]
        there = []
        for fit in dict.fromkeys(self.fit_of(shape) for shape in shapes if shape[0] in (1, 3)):
            if fit == Fit() or (fit.mode and self.shape[0] not in (1, 3)):
                continue
            other, why = self._opened(fit)
            if other is not None and not why:
                there.append((fit, other))
            if len(there) == PLACES:
                break
        return there, problem

    def _opened(self, fit: Fit, *, as_stated: bool = False) -> tuple[Classifier | None, str]:
        """The model for images so brought, its outputs read as what they are or as was stated;
        and why it does not take them."""
        shape = self.shape_of(fit)
        try:
            model = self.opener(shape)
        except InputError as error:
            return None, str(error)
        if model.classes != self.data.classes:
            return model, f"it has {model.classes} classes, the data {self.data.classes}"
        if model.image_shape not in (None, shape):
            return model, f"it takes images {model.image_shape}, these are {shape}"
        model = model if as_stated else self._read(model, fit)
        return model, self._refusal(model, fit)

    def _read(self, model: Classifier, fit: Fit) -> Classifier:
        """The model, its outputs taken for what they are."""
        kind = self._kind(model, fit, FEW)
        wanted = kind if kind in ("probabilities", "sigmoid") else "logits"
        if wanted == model.outputs or not model.scored:
            return model
        self.outputs = wanted
        return taken_for(model, wanted)

    def _refusal(self, model: Classifier, fit: Fit) -> str:
        try:
            model.labels(self.x(fit)[:1].to(model.device).float() / 255)
        except Exception as error:  # the user's own forward may raise anything
            return one_line(error)
        return ""

    def ordered(self, model: Classifier) -> Classifier:
        """With its classes in the data's order, as every verb has it; unless it cannot be told."""
        try:
            return in_order_of(model, self.data.class_names, stated=self.stated)
        except InputError as error:
            self.unmatched = str(error)
            return model

    def reorders(self, model: Classifier) -> bool:
        return self.ordered(model) is not model

    def given(self, places: Sequence[tuple[Fit, Classifier]]) -> Trial:
        """What the user states, on all images asked for."""
        fit = self.asked.fit
        model = None if self.outputs else dict(places).get(fit)
        if model is None:
            model, problem = self._opened(fit, as_stated=True)
            if model is None or problem:
                return Trial(hypothesis=self.asked, problem=problem)
        return self.trial(model, self.asked, len(self.rows))

    def trial(self, model: Classifier, hypothesis: Hypothesis, count: int) -> Trial:
        """The accuracy on some of the images, evenly spaced."""
        self.tried += 1
        if self.progress is not None:
            self.progress(self.tried, 0, hypothesis.name)
        some = torch.arange(min(count, len(self.rows)))
        some = some * len(self.rows) // len(some)
        try:
            view = normalised(model, **hypothesis.pixels) if hypothesis.pixels else model
            view = view if hypothesis.classes == "data" else self.ordered(view)
            x = self.x(hypothesis.fit)
            with torch.no_grad():
                chunks = torch.split(some, 256)
                parts = [view.logits(x[p].to(view.device).float() / 255) for p in chunks]
            logits = torch.cat(parts).cpu()
            if not bool(logits.isfinite().all()):
                raise NothingAssessedError("it gives NaN or infinite logits on these images")
        except Exception as error:  # as in `_refusal`
            return Trial(hypothesis=hypothesis, problem=one_line(error))
        labels, predicted = self.labels[some], logits.argmax(1)
        permuted, order = permutation(predicted, labels, self.data.classes)
        return Trial(
            hypothesis=hypothesis,
            accuracy=accuracy(predicted, labels),
            right=predicted == labels,
            loss=_loss(logits, labels),
            doubts=tuple(chance_doubts(predicted, labels, self.data.classes)),
            permuted=permuted,
            order=order,
        )

    def sizes(self, model: Classifier, trials: Sequence[Trial]) -> list[Trial]:
        """Other sizes, where the model takes them, under the conventions that are best so far."""
        best = sorted(trials, key=lambda t: -t.value)[:2]
        own = self.shape[1:]
        if model.image_shape is not None and self._opened(Fit(size=(2 * own[0], 2 * own[1])))[1]:
            return []
        sizes = dict.fromkeys((h, w) for _, h, w in SHAPES if (h, w) != own)
        fits = [Fit(size=s) for s in sizes if max(s) <= ZOOM * max(own) and min(s) >= 8]
        return [
            self.trial(model, replace(one.hypothesis, fit=fit), LOOK // 2)
            for fit in fits
            if not self._refusal(model, fit)
            for one in best
        ]

    def concluded(
        self, model: Classifier, first: Trial, others: tuple[Trial, ...], best: Trial
    ) -> Diagnosis:
        """What the trials come to.

        Raises:
            NothingAssessedError: no trial could be measured for what the model answers.
        """
        if best.accuracy is None and "NaN" in first.problem:
            raise NothingAssessedError(f"nothing can be measured: {first.problem}")
        notes = [f"as given, it cannot be measured: {first.problem}"] if first.problem else []
        options, kind = best.hypothesis.options(), self._kind(model, best.hypothesis.fit)
        if self.outputs is not None:
            options["outputs"] = self.outputs
            other = "logits" if self.outputs == "probabilities" else "probabilities"
            notes.append(f"the outputs are {kind}, and were taken for {other}")
        if kind == "sigmoids":
            notes.append(
                "all outputs lie between 0 and 1, as of a sigmoid for each class: attacks "
                "need what goes into it"
            )
        if kind == "log-probabilities":
            notes.append("the outputs are log-probabilities, which serve as logits")
        if self.unmatched:
            notes.append(self.unmatched)
            options.setdefault("classes", "data")  # as it was measured
        least = -1.0 if best.accuracy is None else best.accuracy.high
        orders = [(t.permuted, t.order) for t in (best, first, *others) if t.permuted is not None]
        share, order = max(orders, key=lambda one: one[0].low, default=(None, ()))
        better = share is not None and share.low > least
        names = tuple(self.data.class_names[c] for c in order)
        return Diagnosis(
            given=first,
            trials=others,
            best=best,
            outputs=kind,
            options=options,
            order=(names, share) if share is not None and better else None,
            notes=tuple(notes),
        )

    def _kind(self, model: Classifier, fit: Fit, count: int = LOOK) -> str:
        """What the module returns, whatever it is taken for."""
        if model.outputs == "sigmoid":
            return model.outputs
        try:
            bare = Classifier(model.module, bounds=model.input_range, classes=model.classes)
            x = self.x(fit)[:count].to(model.device).float() / 255
            with torch.no_grad():
                return kind_of_outputs(bare.logits(x).cpu())
        except Exception:  # one number an image; or as in `_refusal`
            return model.outputs


def permutation(
    predicted: Tensor, labels: Tensor, classes: int
) -> tuple[Interval | None, tuple[int, ...]]:
    """The accuracy with the classes in the order that fits best, and that order.

    Returns:
        The accuracy on every second image, under the order that fits the others best; None where
        there are fewer than four images a class. And for each of the model's classes that of the
        data, by all images.

    >>> y = torch.arange(40) % 3
    >>> share, order = permutation((y + 1) % 3, y, 3)
    >>> share.value, order
    (1.0, (2, 0, 1))
    """
    if len(labels) < 4 * classes:
        return None, ()

    def best(rows: slice) -> Tensor:
        table = confusion(predicted[rows], labels[rows], classes).numpy()  # row: the true class
        return torch.from_numpy(linear_sum_assignment(table.T, maximize=True)[1])

    order = best(slice(0, None, 2))
    held = order[predicted[1::2]] == labels[1::2]
    return wilson(int(held.sum()), len(held)), tuple(best(slice(None)).tolist())


def _loss(logits: Tensor, labels: Tensor) -> float:
    """The least mean cross-entropy at any of some temperatures."""
    scales = torch.logspace(-10, 10, 41, base=2.0)
    losses = [torch.nn.functional.cross_entropy(logits * scale, labels) for scale in scales]
    return float(min(losses))


def _better(one: Trial, other: Trial, level: float) -> bool:
    """Whether a trial is better than another on the same images, at that level."""
    if one.accuracy is None or other.accuracy is None:
        return one.accuracy is not None
    table = pairs(one.right.numpy(), other.right.numpy())
    return one.value > other.value and mcnemar(table) <= level


def _short(number: float) -> float:
    """As many digits as the option that states it has."""
    return float(f"{number:.6g}")
