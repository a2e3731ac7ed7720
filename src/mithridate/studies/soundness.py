"""Can anything be said about a model? What makes an audit pointless is found before it runs."""

from __future__ import annotations

import torch
from torch import Tensor

from mithridate.classifier import Classifier, Guarded
from mithridate.data import ImageSet
from mithridate.data.decode import way_out
from mithridate.doubts import Doubt
from mithridate.errors import InputError, NothingAssessedError
from mithridate.metrics import chance_doubts
from mithridate.models.doctor import kind_of_outputs
from mithridate.networks.fitting import check_fits
from mithridate.studies.parts import unguarded

LOOK, LOOK_AT_SERVICE = 512, 64
"""Images looked at; of a service, each of whose answers is a query."""


def check_model(
    name: str, model: Classifier | Guarded, data: ImageSet, *, varied: bool = True
) -> list[Doubt]:
    """Refuse a model of which nothing can be learned, or which is wrapped wrongly.

    Args:
        name: how the message calls the model.
        data: clean images; some are shown to the model.
        varied: also refuse a constant model, and a single image: an audit compares.

    Returns:
        What to doubt of a model that is no better than chance on the images shown.

    Raises:
        InputError: it does not take these images, or gives probabilities.
        NothingAssessedError: its logits are NaN or infinite, it says one class (or the same
            logits) whatever it is shown, or there is one image only.

    >>> from torch import nn
    >>> pixels = torch.tensor([[255, 9], [9, 255]]).reshape(2, 1, 1, 2).byte()
    >>> data = ImageSet(pixels, [0, 1], ["a", "b"])
    >>> check_model("m", Classifier(nn.Flatten(), classes=2), data)[0].id
    'near-chance'
    >>> check_model("m", Classifier(nn.Sequential(nn.Flatten(), nn.Softmax(1)), classes=2), data)
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: m returns probabilities where logits are expected: add ...
    """
    model = unguarded(model)
    classes = model.classes - (model.rejected is not None)
    if model.image_shape is not None and tuple(model.image_shape) != data.image_shape:
        raise InputError(
            f"{name} takes images {tuple(model.image_shape)}, {data.name} has {data.image_shape}: "
            f"{way_out(model.image_shape, data.image_shape)}, or give the data that it was trained "
            "for"
        )
    if classes != data.classes:
        raise InputError(
            f"{name} has {classes} classes, {data.name} has {data.classes}: "
            "give the data that it was trained for, or all its class names in classes.txt"
        )
    if model.rejected is None:
        check_fits(model, data)
    count = min(LOOK_AT_SERVICE if is_service(model) else LOOK, len(data))
    rows = torch.arange(count) * len(data) // count
    with torch.no_grad():
        logits = model.logits(data.batch(rows)[0].to(model.device)).cpu()
    if not bool(torch.isfinite(logits).all()):
        raise NothingAssessedError(
            f"{name} gives NaN or infinite logits on clean images: nothing can be said about it"
        )
    raw = model.outputs == "logits" and model.scored  # labels alone look like probabilities
    if raw and kind_of_outputs(logits) == "probabilities":
        raise InputError(
            f"{name} returns probabilities where logits are expected: add --outputs probabilities "
            '(in Python outputs="probabilities"), or take its softmax off'
        )
    if varied:
        _check_varied(name, logits, data.labels[rows])
    return chance_doubts(logits.argmax(1), data.labels[rows], classes)


def is_service(model: Classifier | Guarded) -> bool:
    """Whether somebody else answers for the model."""
    return unguarded(model).info.get("runtime") == "http"


def model_doubts(model: Classifier | Guarded) -> list[Doubt]:
    """What the model itself makes of all figures about it."""
    return [Doubt(*doubt) for doubt in unguarded(model).info.get("doubts", ())]


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
        "cannot be judged; check its pixel range, normalisation and training (mithridate doctor)"
    )
