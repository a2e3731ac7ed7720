"""Did poisons without a trigger take? Train again on them, and ask about the one image."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate.classifier import Classifier, check_undefended
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError, check_number
from mithridate.metrics.intervals import Interval, wilson
from mithridate.networks.fitting import check_fits
from mithridate.poisons.base import Poisoned
from mithridate.rng import child
from mithridate.training import fit


def targeted_success(
    trials: Sequence[Poisoned],
    victim: Classifier,
    *,
    retrain: Literal["last", "all"] = "last",
    epochs: int = 10,
    lr: float = 1e-4,
    rng: torch.Generator,
) -> Interval:
    """How often the image aimed at is read as the base class, once trained on the poisons.

    Shafahi et al. 2018: transfer learning (section 3; only the last layer is trained, from a
    cold start) and end-to-end (section 4; all layers are trained on). Each trial starts from a
    copy of the victim.

    Args:
        trials: poisoned sets that aim at an image, as `feature-collision` makes them.
        victim: what is trained on. That it is the poison's surrogate is the paper's setting.
        retrain: "last" or "all" layers.
        epochs, lr: of `fit`, for all layers.

    Returns:
        The share with Wilson's interval; k trials of n where it is.

    Raises:
        InputError: no trials, or one that aims at no image.

    >>> from torch import nn
    >>> data = ImageSet(torch.tensor([0, 9]).byte().view(2, 1, 1, 1), [0, 1], ["a", "b"])
    >>> rows, aim = torch.tensor([0]), torch.zeros(1, 1, 1)
    >>> poisoned = Poisoned(images=data, indices=rows, trigger=None, target=0, source=None,
    ...     original_labels=data.labels[rows], aim=aim)
    >>> model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(1, 2)), classes=2)
    >>> targeted_success([poisoned], model, rng=torch.Generator()).k
    1
    """
    if retrain not in ("last", "all"):
        raise InputError(f"retrain is 'last' (layer) or 'all' (layers), got {retrain!r}")
    if not trials:
        raise InputError("targeted success needs at least one poisoned set, got none")
    reached = 0
    for number, poisoned in enumerate(trials):
        if poisoned.aim is None or poisoned.target is None:
            raise InputError(f"trial {number} aims at no image: its poison has a trigger or none")
        if retrain == "last":
            trained = retrain_last(victim, poisoned.images)
        else:
            own = child(rng, "kill", number)  # the stream's first name: figures stay as they were
            trained = fit(victim, poisoned.images, epochs=epochs, lr=lr, rng=own)
        predicted = int(trained.labels(poisoned.aim[None].to(trained.device)))
        reached += predicted == poisoned.target
    return wilson(reached, len(trials))


def retrain_last(
    victim: Classifier, data: ImageSet, *, decay: float = 1e-6, steps: int = 300
) -> Classifier:
    """A copy of a classifier whose last linear layer is trained anew, the others kept.

    Logistic regression on the features from a start at 0, to convergence by L-BFGS: the
    minimum of mean cross-entropy + decay / 2 `||w||^2` is one, so no seed and no learning rate
    decide it.

    Args:
        victim: stays as it is.
        decay: at least 0.
        steps: of L-BFGS, at most.

    Raises:
        InputError: another number of classes or other images than the data's, or no linear
            last layer.

    >>> from torch import nn
    >>> data = ImageSet(torch.tensor([0, 255]).byte().view(2, 1, 1, 1), [1, 0], ["a", "b"])
    >>> model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(1, 2)), classes=2)
    >>> retrain_last(model, data).labels(data.batch(range(2))[0])
    tensor([1, 0])
    """
    check_number("decay", decay, low=0)
    check_number("steps", steps, low=1)
    check_undefended(victim)
    check_fits(victim, data)
    model = Classifier(
        copy.deepcopy(victim.module),
        bounds=victim.input_range,
        classes=victim.class_names,
        image_shape=victim.image_shape,
        compute_batch=victim.compute_batch,
        channels_last=victim.channels_last,
        autocast=victim.autocast,
        outputs=victim.outputs,
        info={"parent": victim.info, "last_layer": {"n": len(data), "decay": decay}},
    )
    features = torch.cat([model.features(x.to(model.device)) for x, _ in data.batches(1024)])
    weight, bias = _logistic(features, data.labels.to(model.device), data.classes, decay, steps)
    layer = model.last_linear()
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.copy_(bias)
    return model


def _logistic(
    features: Tensor, labels: Tensor, classes: int, decay: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Weights (K, F) and biases (K,) of multinomial logistic regression."""
    scale = features.square().mean().sqrt().clamp(min=1e-12)  # the same for all: a better start
    weight = features.new_zeros(classes, features.shape[1], requires_grad=True)
    bias = features.new_zeros(classes, requires_grad=True)
    scaled = features / scale
    search = torch.optim.LBFGS(
        [weight, bias], max_iter=steps, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        search.zero_grad()
        with torch.enable_grad():
            value = F.cross_entropy(F.linear(scaled, weight, bias), labels)
            value = value + decay / 2 * (weight / scale).square().sum()
            torch.autograd.backward(value)
        return value

    search.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach() / scale, bias.detach()
