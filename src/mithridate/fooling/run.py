"""Runs a method and certifies what it found: shape, range, confidence."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.errors import InputError, RunError
from mithridate.fooling.base import Elites, FoolingMethod, Shape, sound


@dataclass(frozen=True, kw_only=True)
class FoolingResult:
    """One image per class, measured from outside. Tensors are on the CPU.

    Attributes:
        images: (K, C, H, W) in [0, 1].
        confidence: (K,), the softmax output of each image's own class, asked anew.
        predicted: (K,), the class that the model gives each image.
        rounds: generations (the first population included) or steps that were made.
        queries: images forwarded by the search.
        gradients: images differentiated by it.
        evaluations: (rounds,), queries after each round.
        history: (rounds, K), the best confidence so far per class after each round.
        seconds: of the search.
        status: "done", or "interrupted" (Ctrl-C: the elites so far are kept).
    """

    images: Tensor
    confidence: Tensor
    predicted: Tensor
    rounds: int
    queries: int
    gradients: int
    evaluations: Tensor
    history: Tensor
    seconds: float
    status: str

    def __len__(self) -> int:
        return len(self.confidence)


def run_fooling(
    method: FoolingMethod,
    model: Classifier,
    shape: Shape | None = None,
    *,
    rng: torch.Generator,
    progress: Callable[[int, int, str], None] | None = None,
) -> FoolingResult:
    """Look for an image per class, then ask the model anew: no method certifies itself.

    Args:
        shape: (C, H, W) of the images; the model's own where left out.
        rng: a seeded generator.
        progress: called with (rounds made, rounds at most, what) after each round.

    Raises:
        InputError: a shape that the model cannot take, or none known; pyribs is not installed.
        NothingAssessedError: the model's outputs are not finite.
        RunError: the method left [0, 1] or the shape: a bug of the method.
        KeyboardInterrupt: before the first round was over.

    >>> from mithridate.fooling.ascent import GradientAscent
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> r = run_fooling(GradientAscent(confidence=0.7), model, (1, 1, 2), rng=random.rng(0))
    >>> r.predicted, bool((r.confidence > 0.699).all()), r.status
    (tensor([0, 1]), True, 'done')
    """
    shape = _checked(model, shape)
    elites: Elites | None = None
    evaluations: list[int] = []
    history: list[Tensor] = []
    status = "done"
    with model.frozen():
        queries, gradients = model.cost.queries, model.cost.gradients
        began = time.perf_counter()
        try:
            stream = random.child(rng, "fooling", device=model.device)
            for elites in method.search(model, shape, rng=stream):
                evaluations.append(model.cost.queries - queries)
                history.append(elites.confidence.cpu())
                if progress is not None:
                    least = float(history[-1].min())
                    progress(len(history), method.rounds, f"least confidence {least:.4f}")
        except KeyboardInterrupt:
            if elites is None:
                raise
            status = "interrupted"
        seconds = time.perf_counter() - began
        spent = model.cost.queries - queries, model.cost.gradients - gradients
        if elites is None:
            raise RunError(f"{type(method).__name__} found nothing: a bug")
        images = _certified(method, elites.images, (model.classes, *shape))
        scores = sound(model.scores(images)).cpu()
    rounds = min(len(history), len(evaluations))
    return FoolingResult(
        images=images.cpu(),
        confidence=scores.diagonal().clone(),
        predicted=scores.argmax(1),
        rounds=rounds,
        queries=spent[0],
        gradients=spent[1],
        evaluations=torch.tensor(evaluations[:rounds]),
        history=torch.stack(history[:rounds]) if rounds else scores.new_zeros((0, len(scores))),
        seconds=seconds,
        status=status,
    )


def _checked(model: Classifier, shape: Shape | None) -> Shape:
    """The shape to use, after the model took one grey image of it."""
    known = model.image_shape
    if shape is None:
        shape = known
    if shape is None:
        raise InputError(
            "the model does not say what images it takes: give shape=(C, H, W), on the command "
            "line --data"
        )
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"shape is (C, H, W), each at least 1, got {tuple(shape)}")
    if known is not None and tuple(shape) != tuple(known):
        raise InputError(f"shape is {tuple(shape)}, the model was built for {tuple(known)}")
    try:
        sound(model.scores(torch.full((1, *shape), 0.5, device=model.device)))
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"the model cannot take images of shape {shape}: {reason}") from error
    return shape


def _certified(method: FoolingMethod, images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The images, or the contract that they break."""
    name = type(method).__name__
    if tuple(images.shape) != shape:
        raise RunError(f"{name} returned shape {tuple(images.shape)}, not {shape}: a bug")
    low, high = (float(v) for v in torch.aminmax(images))
    if not (low >= 0 and high <= 1):
        raise RunError(f"{name} left [0, 1]: returned values in [{low:g}, {high:g}]: a bug")
    return images
