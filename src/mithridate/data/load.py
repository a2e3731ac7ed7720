"""One entry for every source of images."""

from __future__ import annotations

import os
from pathlib import Path

from mithridate.data.image_set import ImageSet
from mithridate.errors import DataError, unknown

HUB = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10"}
"""Sets known by name -> where the hub has them."""

NAMES = ("digits", *HUB)


def load_data(name: str, *, memory_limit: int | None = None) -> tuple[ImageSet, ImageSet]:
    """A train and a test set.

    Args:
        name: "digits"; "mnist" or "cifar10" (a folder of that name under MITHRIDATE_DATA
            first, else the hub); a folder of Parquet files or of images; or
            "hf:org/name@revision".
        memory_limit: bytes of decoded pixels per split above which they lie in a scratch
            file and are read per batch; by default MEMORY_SHARE of the available memory.

    Raises:
        InputError: an unknown name.
        DataError: a file is missing or damaged, or the hub cannot be reached.

    >>> train, test = load_data("digits")
    >>> test
    ImageSet('digits/test', 360 images 1x8x8, 10 classes)
    """
    # Imported on use: scikit-learn, pyarrow and the hub's client are slow to import.
    if name == "digits":
        from mithridate.data.digits import load_digits

        return load_digits()
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

            return load_folder(folder, name=label, memory_limit=memory_limit)
    return load_parquet(folder, name=label, memory_limit=memory_limit)


def source_of(name: str) -> Path | None:
    """The folder that `load_data` reads; None for the embedded digits.

    Raises:
        InputError, DataError: as `load_data`.

    >>> source_of("digits") is None
    True
    """
    if name == "digits":
        return None
    if name in HUB:
        return _named(name)
    if name.startswith("hf:"):
        from mithridate.data.hub import fetch

        return fetch(name)
    return _existing(name)


def _named(name: str) -> Path:
    root = os.environ.get("MITHRIDATE_DATA")
    if root and (Path(root) / name).is_dir():
        return Path(root) / name
    from mithridate.data.hub import fetch

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
    raise unknown("data set", name, (*NAMES, "a folder", "hf:org/name@revision"))
