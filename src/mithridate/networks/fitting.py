"""Do a network and a data set go together? One clear line where they do not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from mithridate.classifier import Classifier, as_classifier
from mithridate.data import ImageSet
from mithridate.data.gather import image_sets
from mithridate.errors import InputError, one_line


def check_set(what: str, data: object) -> ImageSet:
    """An image set, as it is or of what holds its images (`image_sets`); one, and no pair.

    Raises:
        InputError: it is none.
    """
    sets = image_sets(data, what=f"the {what} set")
    if len(sets) > 1:
        raise InputError(
            f"the {what} set is an ImageSet, got {type(data).__name__} of two: give one"
        )
    return sets[0]


def check_fits(model: Classifier, data: ImageSet, expected: Sequence[int] | None = None) -> None:
    """Refuse a network that does not take the images, or has another number of classes.

    Args:
        model: asked for one blank image.
        data: its image shape and classes are what must fit.
        expected: (C, H, W) that the network was built for, if known.

    Raises:
        InputError: what differs, and how to create the network.
    """
    shape = tuple(data.image_shape)
    expected = expected or model.image_shape or shape
    if tuple(expected) != shape:
        raise InputError(
            f"the network was built for images {tuple(expected)}, {data.name} has {shape}: "
            f"create the network with image_shape={shape}"
        )
    queries = model.cost.queries
    try:
        model.labels(torch.zeros((1, *shape), device=model.device))
    except InputError as error:
        returned, other, _ = str(error).partition(", expected")
        if not other:
            raise
        raise InputError(
            f"{returned.replace('module returns', 'network gives')} for one image, {data.name} has "
            f"{data.classes} classes: create the network with classes={data.classes}"
        ) from None
    except RuntimeError as error:
        raise InputError(f"the network does not take images {shape}: {one_line(error)}") from None
    finally:
        model.cost.queries = queries
    if model.classes != data.classes:
        raise InputError(
            f"the network gives (1, {model.classes}) for one image, {data.name} has "
            f"{data.classes} classes: create the network with classes={data.classes}"
        )


def classifier_for(model: Classifier | nn.Module, data: ImageSet) -> Classifier:
    """A classifier as it is; a bare module as one of logits, for such images and their classes.

    Raises:
        InputError: neither, or a module that does not take the images.
    """
    return as_classifier(model, data.batch(range(min(2, len(data))))[0], data.class_names)
