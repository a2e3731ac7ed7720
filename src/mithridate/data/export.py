"""Writes a data set in the hub's Parquet layout: all of it, or nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mithridate.data.image_set import ImageSet
from mithridate.data.store import Pixels
from mithridate.errors import InputError, RunError

MANIFEST = "manifest.json"
ROWS = 256
"""Images encoded and written at a time, one row group."""
SHARD = 50_000
"""Images in a file."""
FILES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

Progress = Callable[[int, int, str], None]


def export_set(
    out: Path | str,
    train: ImageSet,
    test: ImageSet,
    *,
    manifest: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Write train and test set as a folder that `load_data` reads back to the same bytes.

    Columns `image` (struct<bytes, path>, PNG, which loses nothing) and `label` (int64); class
    names in the schema's `huggingface` metadata, so that the hub's own tools read it too. The
    folder is made under another name beside `out` and renamed once it is complete: whatever
    stops it, `out` does not hold half a set. Memory is that of `ROWS` images.

    Args:
        out: a folder that does not exist, or is empty.
        train, test: of the same classes and image shape, 1 or 3 channels.
        manifest: written as manifest.json, with the files' sha256 added under "files".
        progress: called with (images written, images in all, "").

    Returns:
        File name -> sha256.

    Raises:
        InputError: `out` holds something, or sets that cannot be written so.
        RunError: it cannot be written.

    >>> import tempfile, torch
    >>> data = ImageSet(torch.arange(8).reshape(2, 1, 2, 2).byte(), [0, 1], ["a", "b"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(export_set(Path(folder) / "set", data, data))
    ['test-00000-of-00001.parquet', 'train-00000-of-00001.parquet']
    """
    out = Path(out)
    check_free(out)
    if train.class_names != test.class_names or train.image_shape != test.image_shape:
        raise InputError("train and test set have other classes or image shapes: write them apart")
    if train.image_shape[0] not in (1, 3):
        raise InputError(
            f"images of {train.image_shape[0]} channels cannot be PNG files here: 1 or 3"
        )
    total = len(train) + len(test)
    with _whole(out) as folder:
        files: dict[str, str] = {}
        done = 0
        for split, data in (("train", train), ("test", test)):
            shards = -(-len(data) // SHARD)
            for k in range(shards):
                name = f"{split}-{k:05d}-of-{shards:05d}.parquet"
                rows = range(k * SHARD, min((k + 1) * SHARD, len(data)))
                for written in _write(folder / name, data, rows):
                    done += written
                    if progress is not None:
                        progress(done, total, "")
                with (folder / name).open("rb") as file:
                    files[name] = hashlib.file_digest(file, "sha256").hexdigest()
        if manifest is not None:
            text = json.dumps({**manifest, "files": files}, indent=1, ensure_ascii=False)
            (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return files


def check_free(out: Path) -> None:
    """Refuse a place that holds something: before the work, not after it.

    Raises:
        InputError: a file, a folder that is not empty, one that cannot be replaced by the
            finished set, or a place that may not be written to.

    >>> check_free(Path("nowhere/yet"))
    """
    new = "give a folder that does not exist yet"
    if os.path.islink(out):
        raise InputError(f"{out} is a link: {new}, or that to which it leads")
    if os.path.isdir(out):
        if any(out.iterdir()):
            raise InputError(f"{out} is not empty, and nothing is overwritten: give another folder")
        if out.resolve() == Path.cwd():
            raise InputError(f"{out} is the folder you are in, and is made anew: {new}")
        if os.path.ismount(out):
            raise InputError(f"{out} is a mount point, and cannot be made anew: {new}, inside it")
    elif os.path.exists(out):
        raise InputError(f"{out} is a file: {new}")
    above = next(folder for folder in out.resolve().parents if os.path.exists(folder))
    if not os.path.isdir(above):
        raise InputError(f"{above} is no folder: give another place than {out}")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{above} may not be written to: give another place than {out}")


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` at the end, or vanishes."""
    part = out.parent / f".{out.name}.{secrets.token_hex(4)}.part"
    try:
        part.mkdir(parents=True)
        yield part
        os.replace(part, out)  # an empty folder gives way, a filled one does not
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{out} cannot be written: {reason}; choose another folder") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(file: Path, data: ImageSet, rows: range) -> Iterator[int]:
    """One file; yields how many images each row group has."""
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(data.class_names)},
    }
    text = json.dumps({"info": {"features": features}}, ensure_ascii=False)
    schema = pa.schema([("image", FILES), ("label", pa.int64())], metadata={"huggingface": text})
    # PNG is compressed already; compressing it again takes time and gives nothing.
    with pq.ParquetWriter(file, schema, compression="none") as writer:
        for at in range(rows.start, rows.stop, ROWS):
            part = range(at, min(at + ROWS, rows.stop))
            blobs = [{"bytes": _png(image), "path": None} for image in data.raw(part).numpy()]
            labels = data.labels[part.start : part.stop].numpy()
            table = pa.table([pa.array(blobs, FILES), pa.array(labels)], schema=schema)
            writer.write_table(table, row_group_size=ROWS)
            yield len(part)


def _png(image: Pixels) -> bytes:
    """uint8 (C, H, W) as a PNG file."""
    file = io.BytesIO()
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
