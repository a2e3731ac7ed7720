"""Channels: what pruning repairs take away, a convolution's output and its normalisation."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.defenses.repair.base import Repairer
from mithridate.errors import InputError
from mithridate.networks.channels import Channels, convolutions
from mithridate.training import predict


def channels_of(repairer: Repairer, own: Classifier, data: ImageSet) -> list[Channels]:
    """The convolutions in the order in which they run, each once.

    Raises:
        InputError: there is none.
    """
    found = convolutions(own, data.image_shape)
    if not found:
        raise InputError(
            f"{component.name_of(repairer)} needs channels, and the network has no hidden "
            "convolution: take ft-sam or unlearning"
        )
    return found


def share_right(own: Classifier, data: ImageSet) -> float:
    """Accuracy on the images of the repair."""
    return float((predict(own, data) == data.labels).double().mean())


def prune(
    own: Classifier,
    data: ImageSet,
    order: Sequence[tuple[Channels, int]],
    *,
    step: int,
    loss: float,
    bias: bool = True,
) -> Sequence[tuple[Channels, int]]:
    """Silence channels in order, `step` at a time, while accuracy falls by at most `loss`.

    Returns:
        Those that are silent.
    """
    floor = share_right(own, data) - loss - 1e-9
    for at in range(0, len(order), step):
        before = copy.deepcopy(own.module.state_dict())
        for channels, channel in order[at : at + step]:
            channels.silence(channel, bias=bias)
        if share_right(own, data) < floor:
            own.module.load_state_dict(before)
            return order[:at]
    return order
