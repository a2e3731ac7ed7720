"""Can anything be said about a model? What makes an audit pointless is found before it runs."""

from __future__ import annotations

import torch
from torch import Tensor

from mithridate.classifier import Classifier, Guarded
from mithridate.data import ImageSet
from mithridate.errors import InputError, NothingAssessedError
from mithridate.networks.fitting import check_fits
from mithridate.studies.parts import unguarded

LOOK = 512
"""Images looked at."""


def check_model(
    name: str, model: Classifier | Guarded, data: ImageSet, *, varied: bool = True
) -> None:
    """Refuse a model of which nothing can be learned, or which is wrapped wrongly.

    Args:
        name: how the message calls the model.
        data: clean images; some are shown to the model.
        varied: also refuse a constant model, and a single image: an audit compares.

    Raises:
        InputError: it does not take these images, or gives probabilities.
        NothingAssessedError: its logits are NaN or infinite, it says one class (or the same
            logits) whatever it is shown, or there is one image only.

    >>> from torch import nn
    >>> pixels = torch.tensor([[255, 9], [9, 255]]).reshape(2, 1, 1, 2).byte()
    >>> data = ImageSet(pixels, [0, 1], ["a", "b"])
    >>> check_model("m", Classifier(nn.Flatten(), classes=2), data)
    >>> check_model("m", Classifier(nn.Sequential(nn.Flatten(), nn.Softmax(1)), classes=2), data)
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: m returns probabilities where logits are expected: wrap it ...
    """
    model = unguarded(model)
    classes = model.classes - (model.rejected is not None)
    if model.image_shape is not None and tuple(model.image_shape) != data.image_shape:
        raise InputError(
            f"{name} takes images {tuple(model.image_shape)}, {data.name} has {data.image_shape}: "
            "give the data that it was trained for"
        )
    if classes != data.classes:
        raise InputError(
            f"{name} has {classes} classes, {data.name} has {data.classes}: "
            "give the data that it was trained for, or all its class names in classes.txt"
        )
    if model.rejected is None:
        check_fits(model, data)
    count = min(LOOK, len(data))
    rows = torch.arange(count) * len(data) // count
    with torch.no_grad():
        logits = model.logits(data.batch(rows)[0].to(model.device)).cpu()
    if not bool(torch.isfinite(logits).all()):
        raise NothingAssessedError(
            f"{name} gives NaN or infinite logits on clean images: nothing can be said about it"
        )
    if model.outputs == "logits" and _sums_to_one(logits):
        raise InputError(
            f"{name} returns probabilities where logits are expected: wrap it with "
            'Classifier(..., outputs="probabilities"), or take its softmax off'
        )
    if varied:
        _check_varied(name, logits, data.labels[rows])


def _sums_to_one(outputs: Tensor) -> bool:
    inside = bool(((outputs >= 0) & (outputs <= 1)).all())
    return inside and bool(((outputs.sum(1) - 1).abs() < 1e-4).all())


def _check_varied(name: str, logits: Tensor, labels: Tensor) -> None:
    if len(labels) < 2:
        raise NothingAssessedError(
            f"{name} was shown a single image, which tells nothing: add more"
        )
    predicted = logits.argmax(1)
    if bool((predicted != predicted[0]).any()) or bool((labels == labels[0]).all()):
        return
    raise NothingAssessedError(
        f"{name} calls all {len(labels)} images class {int(predicted[0])}: a constant model "
        "cannot be judged; check its pixel range, normalisation and training"
    )
