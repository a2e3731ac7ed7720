"""One entry for every source of images."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mithridate.data.image_set import ImageSet
from mithridate.errors import DataError, InputError

if TYPE_CHECKING:
    from mithridate.data.decode import Fit

HUB = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10"}
"""Sets known by name -> where the hub has them."""

NAMES = ("digits", *HUB)


def load_data(
    name: str | Path,
    *,
    resize: int | str | None = None,
    mode: str | None = None,
    memory_limit: int | None = None,
) -> tuple[ImageSet, ImageSet]:
    """A train and a test set.

    Args:
        name: "digits"; "mnist" or "cifar10" (a folder of that name under MITHRIDATE_DATA
            first, else the hub); a folder of Parquet files or of images; or
            "hf:org/name@revision".
        resize: N or "HxW", the size that all images are brought to (bilinear, antialiased).
        mode: "RGB" or "L" (grey), which all are brought to.
        memory_limit: bytes of decoded pixels per split above which they lie in a scratch
            file and are read per batch; by default MEMORY_SHARE of the available memory.

    Raises:
        InputError: an unknown name, size or mode.
        DataError: a file is missing or damaged, or the hub cannot be reached.

    >>> train, test = load_data("digits")
    >>> test
    ImageSet('digits/test', 360 images 1x8x8, 10 classes)
    """
    # Imported on use: scikit-learn, pyarrow and the hub's client are slow to import.
    name = str(name) if isinstance(name, Path) else name
    if not isinstance(name, str) or not name:
        got = type(name).__name__ if name != "" else "an empty one"
        raise InputError(f"a data set is named by its name or path, got {got}")
    if name == "digits" and resize is None and mode is None:
        return load_digits()
    from mithridate.data.decode import Fit

    fit = Fit.of(resize, mode)
    if name == "digits":
        train, test = (fitted(part, fit) for part in load_digits())
        return train, test
    from mithridate.data.parquet import load_parquet

    folder = source_of(name)
    assert folder is not None, "only the digits have no files"
    if name in HUB:
        label = name
    elif name.startswith("hf:"):
        label = name.removeprefix("hf:")
    else:
        label = folder.resolve().name
        if not any(folder.glob("*.parquet")) and not any(folder.glob("*/*.parquet")):
            from mithridate.data.folder import load_folder

            return load_folder(folder, name=label, memory_limit=memory_limit, fit=fit)
    return load_parquet(folder, name=label, memory_limit=memory_limit, fit=fit)


def fitted(data: ImageSet, fit: Fit) -> ImageSet:
    """A set with its images brought to a size and mode, in memory."""
    images = torch.from_numpy(fit.pixels(data.raw(range(len(data))).numpy()))
    return ImageSet(images, data.labels, data.class_names, data.name)


def load_digits() -> tuple[ImageSet, ImageSet]:
    """1,437 training and 360 test images, 1 x 8 x 8, ten classes.

    The 17 grey levels 0..16 become 0..255, rounded. The split is fixed and stratified without
    a seed: sorted by class, every fifth image is a test image. Neighbours in the file come
    from the same writers, so the split measures new images and not new writers.

    >>> train, test = load_digits()
    >>> len(train), len(test), train.image_shape
    (1437, 360, (1, 8, 8))
    """
    from sklearn import datasets

    source = datasets.load_digits()
    pixels = np.rint(source.images * (255 / 16)).astype(np.uint8)
    order = np.argsort(source.target, kind="stable")
    test = np.zeros(len(order), bool)
    test[order[::5]] = True
    images = torch.from_numpy(pixels)[:, None]
    labels = torch.from_numpy(source.target.astype(np.int64))
    names = [str(name) for name in range(10)]
    rows = torch.from_numpy(test)
    return (
        ImageSet(images[~rows], labels[~rows], names, "digits/train"),
        ImageSet(images[rows], labels[rows], names, "digits/test"),
    )


def source_of(name: str) -> Path | None:
    """The folder that `load_data` reads; None for the embedded digits.

    Raises:
        InputError, DataError: as `load_data`.

    >>> source_of("digits") is None
    True
    """
    if name == "digits":
        return None
    if name not in HUB and not name.startswith("hf:"):
        return _existing(name)
    root = os.environ.get("MITHRIDATE_DATA")
    if name in HUB and root and (Path(root) / name).is_dir():
        return Path(root) / name
    from mithridate.data.hub import fetch

    if name not in HUB:
        return fetch(name)
    try:
        return fetch(HUB[name])
    except DataError as error:
        raise DataError(
            f"{error}; or set MITHRIDATE_DATA to a folder with {name}/train-*.parquet"
        ) from None


def _existing(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(f"{name} is a file: give the folder that holds train and test")
    if len(path.parts) > 1 or name.startswith((".", "~")):
        raise DataError(f"{name} does not exist: check the path")
    here = [folder.name for folder in Path.cwd().iterdir() if folder.is_dir()]
    near = difflib.get_close_matches(name, (*NAMES, *here), n=1, cutoff=0.7)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(
        f"no data set named {name!r}: {hint}(known: {', '.join(NAMES)}, a "
        "folder, hf:org/name@revision)"
    )
