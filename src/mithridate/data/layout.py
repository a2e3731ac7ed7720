"""Which Parquet files make up the train and test split of a hub-layout folder."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from mithridate.errors import DataError

SPLITS = {"train": ("train",), "test": ("test", "validation", "valid", "val")}
"""Split -> the file prefixes that stand for it, the first present one wins."""

_FILE = re.compile(r"(?:(?P<folder>[^/]+)/)?(?P<split>[A-Za-z]+)(?:-(?P<rest>[^/]*))?\.parquet")
_SHARD = re.compile(r"(\d+)-of-(\d+)")


def pick(paths: Iterable[str], where: str) -> dict[str, list[str]]:
    """The files of each split, among paths relative to a folder or a hub repository.

    They lie in the folder itself, in `data/`, or in the only sub-folder that has a train split.

    Raises:
        DataError: no split, several candidate folders, or a missing shard; names `where`.

    >>> pick(["data/test-0.parquet", "data/train-0.parquet", "README.md"], "x")
    {'train': ['data/train-0.parquet'], 'test': ['data/test-0.parquet']}
    """
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(paths):
        if match := _FILE.fullmatch(path):
            found[match["folder"] or ""][match["split"]].append(path)
    known = {word for words in SPLITS.values() for word in words}
    folders = [folder for folder, splits in found.items() if known & set(splits)]
    preferred = [folder for folder in ("", "data") if folder in folders]
    if not preferred:
        if not folders:
            raise DataError(
                f"{where} has no train-*.parquet and test-*.parquet: "
                "give a folder that holds them, itself or in data/"
            )
        if len(folders) > 1:
            raise DataError(
                f"{where} has several sets ({', '.join(sorted(folders))}): "
                "give the path of one of these folders"
            )
    folder = (preferred or folders)[0]
    return {split: _shards(found[folder], split, where) for split in SPLITS}


def find(folder: Path) -> dict[str, list[Path]]:
    """`pick` for a local folder.

    Raises:
        DataError: as `pick`.

    >>> find(Path("nowhere"))
    Traceback (most recent call last):
    ...
    mithridate.errors.DataError: nowhere has no train-*.parquet and test-*.parquet: \
give a folder that holds them, itself or in data/
    """
    names = [
        path.relative_to(folder).as_posix()
        for pattern in ("*.parquet", "*/*.parquet")
        for path in folder.glob(pattern)
    ]
    return {
        split: [folder / name for name in files]
        for split, files in pick(names, str(folder)).items()
    }


def _shards(files: dict[str, list[str]], split: str, where: str) -> list[str]:
    prefix = next((word for word in SPLITS[split] if word in files), None)
    if prefix is None:
        wanted = " or ".join(f"{word}-*.parquet" for word in SPLITS[split])
        raise DataError(f"{where} has no {split} split: add {wanted}")
    numbers = [m for name in files[prefix] for m in [_SHARD.search(name.rsplit("/")[-1])] if m]
    totals = {int(match[2]) for match in numbers}
    if len(totals) > 1:
        raise DataError(
            f"{where} mixes {prefix} shards of {len(totals)} versions: keep those of one"
        )
    for total in totals:
        missing = set(range(total)) - {int(match[1]) for match in numbers}
        if missing:
            raise DataError(
                f"{where} lacks {prefix} shard {min(missing):05d} of {total}: get the missing file"
            )
    return files[prefix]
