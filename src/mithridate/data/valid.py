"""What a set accepts: pixels, labels, class names and row numbers, or one clear line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mithridate.classifier import check_images, class_names_of
from mithridate.errors import InputError
from mithridate.goals import as_labels

Array = np.ndarray[Any, Any]
Rows = range | slice | Sequence[int] | Tensor | Array
Images = Tensor | Array
Labels = Tensor | Sequence[int] | Array


def as_tensor(values: Tensor | Sequence[int] | Array, what: str) -> Tensor:
    """A CPU tensor; memory is shared where it can be written to.

    Raises:
        InputError: not numbers.
    """
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        array = np.ascontiguousarray(values) if np.ndim(values) else np.asarray(values)
        if array.size == 0:
            array = array.astype(np.int64) if array.dtype == np.float64 else array
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except (TypeError, ValueError):
        raise InputError(f"{what} are numbers, got {type(values).__name__}") from None


def as_pixels(images: Images, *, or_float: bool = False) -> Tensor:
    """Images as uint8 (N, C, H, W) on the CPU.

    Args:
        images: uint8 N x C x H x W.
        or_float: float images in [0, 1] are rounded instead of refused.

    Raises:
        InputError: wrong type, rank, layout or range.

    >>> as_pixels(torch.zeros(2, 8, 8).byte())
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: images are N x C x H x W, got (2, 8, 8): add a channel axis, \
x[:, None]
    """
    if not isinstance(images, Tensor | np.ndarray):
        raise InputError(
            f"images are a uint8 tensor or array N x C x H x W, got {type(images).__name__}"
        )
    tensor = as_tensor(images, "images")
    shape = tuple(tensor.shape)
    if len(shape) != 4:
        hints = {3: ": add a channel axis, x[:, None]", 2: ": restore rows and columns, x.reshape"}
        raise InputError(f"images are N x C x H x W, got {shape}{hints.get(len(shape), '')}")
    if shape[1] not in (1, 2, 3, 4) and shape[3] in (1, 3, 4):
        raise InputError(
            f"images are N x C x H x W, got {shape}, which looks channels-last: "
            "use permute(0, 3, 1, 2)"
        )
    if 0 in shape[1:]:
        raise InputError(f"images have at least one channel, row and column, got {shape}")
    if or_float and tensor.is_floating_point():
        return rounded(tensor)
    if tensor.dtype != torch.uint8:
        fix = "ImageSet.from_float for [0, 1]" if tensor.is_floating_point() else "x.byte()"
        raise InputError(f"images are uint8 in 0..255, got {tensor.dtype}: use {fix}")
    return tensor


def rounded(x: Tensor) -> Tensor:
    """Float images in [0, 1] as uint8, to the nearest level.

    Raises:
        InputError: as `check_images`.
    """
    return (check_images(x) * 255).round().to(torch.uint8).cpu()


def check_class_names(names: Sequence[str] | Mapping[Any, str]) -> tuple[str, ...]:
    """Class names as a tuple, in the order of their numbers where they are a dict.

    Raises:
        InputError: none, not strings, or a name twice.
    """
    if isinstance(names, Mapping):
        names = class_names_of(names)
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"class_names is a sequence of strings, got {names!r}")
    if len(names) == 0:
        raise InputError("class_names holds one name per class, got none")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"class names differ from each other, got {name!r} twice")
        seen.add(name)
    return tuple(names)


def row_numbers(rows: Rows, count: int, name: str = "the set") -> Tensor:
    """Row numbers as int64 (n,), each in 0..count - 1.

    Raises:
        InputError: not row numbers, a mask of another length, or a row outside the set.

    >>> row_numbers(slice(-2, None), 5), row_numbers([True, False], 2)
    (tensor([3, 4]), tensor([0]))
    """
    if isinstance(rows, slice):
        rows = range(*rows.indices(count))
    if isinstance(rows, range):
        index = torch.from_numpy(np.arange(rows.start, rows.stop, rows.step, dtype=np.int64))
    else:
        index = as_tensor(rows, "rows")
    if index.numel() == 0:
        index = index.long()
    if index.dim() != 1 or index.is_floating_point() or index.is_complex():
        raise InputError(f"rows are whole numbers (n,), got {index.dtype} {tuple(index.shape)}")
    if index.dtype == torch.bool:
        if len(index) != count:
            raise InputError(f"a mask for {name} has length {count}, got {len(index)}")
        return index.nonzero()[:, 0]
    index = index.long()
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= count):
        wrong = int(index.min()) if int(index.min()) < 0 else int(index.max())
        raise InputError(f"{name} has {count} images, rows 0..{count - 1}; got row {wrong}")
    return index


def check_labels(labels: Labels, classes: int) -> Tensor:
    """Labels as int64 (N,), all in 0..classes - 1.

    Raises:
        InputError: not whole numbers, or out of range.

    >>> check_labels([1, 2], 2)
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: labels run 1..2 for 2 classes: subtract 1
    """
    out = as_labels(as_tensor(labels, "labels"))
    if out.numel() and int(out.max()) >= classes:
        low, high = int(out.min()), int(out.max())
        fix = "subtract 1" if low >= 1 and high == classes else f"labels are 0..{classes - 1}"
        raise InputError(f"labels run {low}..{high} for {classes} classes: {fix}")
    return out
