"""Hub-layout Parquet: an image column of encoded files, a label column, names in the schema."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mithridate.data.decode import Fit, decode
from mithridate.data.image_set import ImageSet, train_and_test
from mithridate.data.store import Store, build_store
from mithridate.errors import DataError

ROWS = 256
"""Rows read from a Parquet file at a time."""
CLASSES = 50_000
"""More classes than labels without names may tell: such a column is damaged, or no label."""
SPLITS = {"train": ("train",), "test": ("test", "validation", "valid", "val")}
"""Split -> the file prefixes that stand for it, the first present one wins."""

_FILE = re.compile(r"(?:(?P<folder>[^/]+)/)?(?P<split>[A-Za-z]+)(?:-(?P<rest>[^/]*))?\.parquet")
_SHARD = re.compile(r"(\d+)-of-(\d+)")


class Columns(NamedTuple):
    """Where images and labels lie, and the class names where the schema tells them."""

    image: str
    label: str
    names: tuple[str, ...] | None


def load_parquet(
    folder: Path | str,
    *,
    name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    memory_limit: int | None = None,
    fit: Fit = Fit(),  # noqa: B008
) -> tuple[ImageSet, ImageSet]:
    """The train and test split of a folder in the hub's Parquet layout.

    Columns are found by the `huggingface` schema metadata (Image, ClassLabel), else by type
    (struct<bytes, path>) and by the name `label`. Without names in the metadata classes are
    called by their number. MNIST's 70,000 PNG files decode in about 3 s on one core and
    CIFAR-10's 60,000 JPEG files in about 6 s, so nothing decoded is cached.

    Args:
        folder: holds train-*.parquet and test-*.parquet, itself or in `data/`.
        name: of the set, the folder's by default.
        image_column: where several columns hold images.
        label_column: where several columns hold class labels.
        memory_limit: bytes of decoded pixels per split above which they lie in a scratch
            file; by default MEMORY_SHARE of the available memory.
        fit: size and mode to bring images to.

    Raises:
        DataError: a file is missing or damaged, or holds something else; names the file.
        RunError: the scratch file cannot be written.

    >>> load_parquet("nowhere")
    Traceback (most recent call last):
    ...
    mithridate.errors.DataError: nowhere has no train-*.parquet and test-*.parquet: \
give a folder that holds them, itself or in data/
    """
    folder = Path(folder)
    name = name or folder.resolve().name
    wanted = (image_column, label_column)
    parts: dict[str, tuple[Store, np.ndarray[Any, Any]]] = {}
    names: dict[str, tuple[str, ...] | None] = {}
    for split, files in find(folder).items():
        columns = [_columns(file, *wanted) for file in files]
        names[split] = columns[0].names
        what = f"{folder} ({split})"
        parts[split] = _read(files, columns, memory_limit, what, fit)
    common = _names(names, [labels for _, labels in parts.values()], folder)
    return train_and_test(folder, parts, common, name)


def pick(paths: Iterable[str], where: str) -> dict[str, list[str]]:
    """The files of each split, among paths relative to a folder or a hub repository.

    They lie in the folder itself, in `data/`, or in the only sub-folder that has a train split.

    Raises:
        DataError: no split, several candidate folders, or a missing shard; names `where`.

    >>> pick(["data/test-0.parquet", "data/train-0.parquet", "README.md"], "x")
    {'train': ['data/train-0.parquet'], 'test': ['data/test-0.parquet']}
    """
    shards: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(paths):
        if match := _FILE.fullmatch(path):
            shards[match["folder"] or ""][match["split"]].append(path)
    known = {word for words in SPLITS.values() for word in words}
    folders = [folder for folder, splits in shards.items() if known & set(splits)]
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
    return {split: _shards(shards[folder], split, where) for split in SPLITS}


def find(folder: Path) -> dict[str, list[Path]]:
    """`pick` for a local folder."""
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


def _columns(file: Path, image: str | None, label: str | None) -> Columns:
    """The image and label column of a Parquet file."""
    with _opened(file) as parquet:
        schema = parquet.schema_arrow
    features = _features(schema)
    kind = {key: f.get("_type") for key, f in features.items() if isinstance(f, dict)}
    images = [f.name for f in schema if kind.get(f.name) == "Image" or _holds_files(f.type)]
    labels = [f.name for f in schema if kind.get(f.name) == "ClassLabel"]
    if not labels:
        labels = [f.name for f in schema if f.name in ("label", "labels")]
    image = _choose(file, "image", image, images, schema.names)
    label = _choose(file, "label", label, labels, schema.names)
    if not _holds_files(schema.field(image).type):
        raise DataError(f"{file}: column {image!r} is no struct<bytes, path> of image files")
    if not pa.types.is_integer(schema.field(label).type):
        raise DataError(
            f"{file}: column {label!r} is {schema.field(label).type}, labels are whole numbers: "
            "convert the column"
        )
    names = features.get(label, {}).get("names")
    known = tuple(names) if isinstance(names, list) and names else None
    return Columns(image, label, known)


def _choose(
    file: Path, what: str, wanted: str | None, columns: Sequence[str], every: Sequence[str]
) -> str:
    if wanted is not None:
        if wanted not in every:
            raise DataError(
                f"{file} has no column {wanted!r}: take one of {', '.join(map(repr, every))}"
            )
        return wanted
    if len(columns) == 1:
        return columns[0]
    if what in columns:
        return what
    if columns:
        raise DataError(
            f"{file} has several {what} columns ({', '.join(columns)}): "
            f"name one with load_parquet({what}_column=...)"
        )
    raise DataError(
        f"{file} has no {what} column among {', '.join(map(repr, every))}: images are "
        "struct<bytes, path>, labels an integer column 'label'"
    )


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """The hub's description of the columns; empty where there is none that can be read."""
    try:
        header = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = header.get("info", {}).get("features", {})
        return {k: v for k, v in features.items() if isinstance(v, dict)}
    except (ValueError, AttributeError, RecursionError):
        return {}


def _holds_files(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    inner = kind.field("bytes").type
    return bool(pa.types.is_binary(inner) or pa.types.is_large_binary(inner))


@contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file whose every fault becomes one line that names it."""
    try:
        # buffer_size streams the columns: a row group is never in memory as a whole.
        with pq.ParquetFile(file, buffer_size=2**20) as parquet:
            yield parquet
    except FileNotFoundError:
        raise DataError(f"{file} is missing: get the file anew") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{file} is damaged or no Parquet file ({reason}): get the file anew"
        ) from None


def _read(
    files: Sequence[Path],
    columns: Sequence[Columns],
    memory_limit: int | None,
    what: str,
    fit: Fit,
) -> tuple[Store, np.ndarray[Any, Any]]:
    labels: list[np.ndarray[Any, Any]] = []
    count = 0
    for file in files:
        with _opened(file) as parquet:
            count += parquet.metadata.num_rows
    chunks = decode(_encoded(files, columns, labels), fit)
    store = build_store(chunks, count, memory_limit=memory_limit, what=what)
    return store, np.concatenate(labels)


def _encoded(
    files: Sequence[Path], columns: Sequence[Columns], labels: list[np.ndarray[Any, Any]]
) -> Iterator[tuple[bytes, str]]:
    """The image files of all shards, in order; their labels are appended to `labels`."""
    for file, column in zip(files, columns, strict=True):
        row = 0
        with _opened(file) as parquet:
            wanted = [column.image, column.label]
            # One thread: torch has its own, and decoding, not reading, takes the time.
            for part in parquet.iter_batches(ROWS, columns=wanted, use_threads=False):
                label = part.column(column.label)
                if label.null_count:
                    raise DataError(f"{file} has rows without a label: fill or drop them")
                labels.append(label.to_numpy(zero_copy_only=False).astype(np.int64))
                for blob in part.column(column.image).field("bytes"):
                    value = blob.as_py()
                    if value is None:
                        raise DataError(f"{file}, row {row} has no image bytes: fill or drop it")
                    yield value, f"{file}, row {row}"
                    row += 1


def _names(
    named: dict[str, tuple[str, ...] | None],
    labels: Sequence[np.ndarray[Any, Any]],
    folder: Path,
) -> tuple[str, ...]:
    """The class names that both splits agree on, else numbers."""
    train, test = named["train"], named["test"]
    if train and test and train != test:
        raise DataError(
            f"{folder}: train and test name their classes differently: mend the schema metadata"
        )
    if names := train or test:
        return tuple(map(str, names))
    top = max(int(part.max()) for part in labels)
    if top >= CLASSES:
        raise DataError(
            f"{folder}: labels run to {top} and the schema names no classes: mend the label column"
        )
    return tuple(str(c) for c in range(max(top, 0) + 1))
