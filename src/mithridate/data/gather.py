"""Labelled images as people hold them (arrays, a torch Dataset or DataLoader) as image sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from mithridate.data.image_set import ImageSet
from mithridate.data.valid import as_pixels, as_tensor
from mithridate.errors import InputError
from mithridate.goals import as_labels

IMAGES = ("image", "img", "pixel_values", "images", "x")
LABELS = ("label", "labels", "target", "y", "fine_label")
"""What a mapping calls an image and its label."""
BATCH = 256


def image_sets(
    data: object, names: Sequence[str] | None = None, *, what: str = "the data set"
) -> list[ImageSet]:
    """One image set, or two that are a training and a test set.

    Pixels are kept as 8 bits: floats in [0, 1] are rounded to the nearest of 256 levels.

    Args:
        data: an `ImageSet`, a torch `Dataset` or `DataLoader` of (image, label), or (images,
            labels) as tensors or arrays N x C x H x W: uint8, or float in [0, 1]. Or a pair
            (training, test) of such. A loader is read in its data set's own order, unless its
            sampler picks.
        names: of the classes, where the data have no names of their own (`.classes`).
        what: how messages call them.

    Raises:
        InputError: none of these, or images that are no set; one line.

    >>> x, y = np.zeros((3, 1, 2, 2), np.uint8), [0, 1, 1]
    >>> image_sets((x, y))
    [ImageSet('images', 3 images 1x2x2, 2 classes)]
    >>> [len(part) for part in image_sets(((x, y), (x[:1], y[:1])), ["no", "yes"])]
    [3, 1]
    """
    pair = isinstance(data, tuple | list) and len(data) == 2
    if pair and all(_is_set(part) for part in data):  # type: ignore[attr-defined]
        return [part for one in data for part in image_sets(one, names)]  # type: ignore[attr-defined]
    if isinstance(data, ImageSet):
        return [data]
    if isinstance(data, DataLoader | Dataset):
        images, labels = _read(data)
        names = _named(data) or names
    elif pair:
        images, labels = (as_tensor(part, "images and labels") for part in data)  # type: ignore[attr-defined]
    else:
        raise InputError(
            f"{what} is an ImageSet, a torch Dataset or DataLoader, or (images, labels), "
            f"got {type(data).__name__}: make one, or load_data(NAME)"
        )
    labels = as_labels(labels)
    if names is None:
        names = [str(label) for label in range(int(labels.max()) + 1 if labels.numel() else 0)]
    return [ImageSet(as_pixels(images, or_float=True), labels, list(names), "images")]


def _is_set(data: object) -> bool:
    """Whether it is a set by itself, and not the half of one."""
    if isinstance(data, ImageSet | Dataset | DataLoader):
        return True
    pair = isinstance(data, tuple | list) and len(data) == 2
    return pair and np.ndim(data[0]) == 4  # type: ignore[index]


def _named(data: DataLoader[Any] | Dataset[Any]) -> list[str] | None:
    """The names of the classes, as torchvision's sets have them; through subsets and loaders."""
    while not hasattr(data, "classes") and hasattr(data, "dataset"):
        data = data.dataset
    names = getattr(data, "classes", None)
    several = isinstance(names, Sequence) and not isinstance(names, str)
    return [str(name) for name in names] if several and names else None


def _read(data: DataLoader[Any] | Dataset[Any]) -> tuple[Tensor, Tensor]:
    """All images and labels, in order."""
    batches: Iterable[Any]
    if isinstance(data, DataLoader):
        batches = _in_order(data)
    else:
        batches = DataLoader(data, batch_size=BATCH, collate_fn=_collated)
    images, labels = [], []
    try:
        for batch in batches:
            x, y = _pair(batch)
            images.append(as_pixels(x, or_float=True))
            labels.append(as_labels(as_tensor(y, "labels")))
    except InputError as error:
        hint = ": leave the normalisation to the model, and give images in [0, 1]"
        raise InputError(f"{error}{hint if 'normalisation' in str(error) else ''}") from None
    except Exception as error:  # the user's own data set may raise anything
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"the data set cannot be read: {type(error).__name__}: {reason}"
        ) from error
    if not images:
        raise InputError("the data set is empty")
    return torch.cat(images), torch.cat(labels)


def _in_order(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The loader without its shuffle, which no result shall depend on; with its choice of rows."""
    sampler = loader.sampler
    every = isinstance(sampler, SequentialSampler) or (
        isinstance(sampler, RandomSampler)
        and not sampler.replacement
        and sampler.num_samples == len(sampler.data_source)
    )
    if (
        isinstance(loader.dataset, IterableDataset)
        or type(loader.batch_sampler) is not BatchSampler
    ):
        return loader
    if not every:
        return loader
    return DataLoader(loader.dataset, batch_size=BATCH, collate_fn=loader.collate_fn)


def _collated(items: list[Any]) -> Any:
    """Images of Pillow and arrays H x W x C beside what torch puts together itself."""
    pairs = [_pair(item) for item in items]
    return default_collate([(_channels_first(image), label) for image, label in pairs])


def _channels_first(image: Any) -> Any:
    if isinstance(image, Tensor):
        return image
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return pixels[None]
    return pixels.transpose(2, 0, 1).copy() if pixels.shape[0] not in (1, 3, 4) else pixels


def _pair(item: Any) -> tuple[Any, Any]:
    """Image and label of an item, or of a batch."""
    if isinstance(item, Mapping):
        keys = [next((key for key in known if key in item), None) for known in (IMAGES, LABELS)]
        if None not in keys:
            return item[keys[0]], item[keys[1]]
    elif isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    raise InputError(f"an item of the data is (image, label), got {type(item).__name__}")
