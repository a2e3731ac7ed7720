"""Can anything be said about a model? What makes an audit pointless is found before it runs."""

from __future__ import annotations

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.errors import InputError, NothingAssessedError
from mithridate.networks.fitting import check_fits

LOOK = 512
"""Images looked at."""


def check_model(name: str, model: Classifier, data: ImageSet) -> None:
    """Refuse a model of which nothing can be learned, or which is wrapped wrongly.

    Args:
        name: how the message calls the model.
        data: clean images; some are shown to the model.

    Raises:
        InputError: it does not take these images, or gives probabilities.
        NothingAssessedError: its logits are NaN or infinite, it says one class (or the same
            logits) whatever it is shown, or there is one image only.

    >>> from torch import nn
    >>> data = ImageSet(torch.eye(2).reshape(2, 1, 1, 2).byte() * 255, [0, 1], ["a", "b"])
    >>> check_model("m", Classifier(nn.Flatten(), classes=2), data)
    >>> check_model("m", Classifier(nn.Sequential(nn.Flatten(), nn.Softmax(1)), classes=2), data)
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: m returns probabilities where logits are expected: wrap it ...
    """
    if model.image_shape is not None and tuple(model.image_shape) != data.image_shape:
        raise InputError(
            f"{name} takes images {tuple(model.image_shape)}, {data.name} has {data.image_shape}: "
            "give the data that it was trained for"
        )
    if model.classes != data.classes:
        raise InputError(
            f"{name} has {model.classes} classes, {data.name} has {data.classes}: "
            "give the data that it was trained for"
        )
    check_fits(model, data)
    rows = torch.linspace(0, len(data) - 1, min(LOOK, len(data))).long().unique()
    with torch.no_grad():
        logits = model.logits(data.batch(rows)[0].to(model.device)).cpu()
    if not bool(torch.isfinite(logits).all()):
        raise NothingAssessedError(
            f"{name} gives NaN or infinite logits on clean images: nothing can be said about it"
        )
    if len(rows) < 2:
        raise NothingAssessedError(f"{data.name} has a single image, which shows nothing: add more")
    if model.outputs == "logits" and _sums_to_one(logits):
        raise InputError(
            f"{name} returns probabilities where logits are expected: wrap it with "
            'Classifier(..., outputs="probabilities"), or take its softmax off'
        )
    _check_varied(name, logits, data.labels[rows])


def _sums_to_one(outputs: Tensor) -> bool:
    inside = bool(((outputs >= 0) & (outputs <= 1)).all())
    return inside and bool(((outputs.sum(1) - 1).abs() < 1e-4).all())


def _check_varied(name: str, logits: Tensor, labels: Tensor) -> None:
    said = logits.argmax(1).unique()
    if len(said) > 1 or len(labels.unique()) < 2:
        return
    raise NothingAssessedError(
        f"{name} calls all {len(labels)} images class {int(said)}: a constant model cannot be "
        "judged; check its pixel range, normalisation and training"
    )
