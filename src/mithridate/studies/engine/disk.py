"""Files and folders of the store: hashed, flushed to the disk, weighed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mithridate.errors import RunError
from mithridate.networks.storage import refused
from mithridate.studies.engine.entry import FORMATS, TIMING, UNIT, Part


def names(folder: Path, kind: str) -> list[str]:
    """The files that a kind wrote.

    Raises:
        RunError: a folder, a link, a name of the store's own, or a format that is not kept.
    """
    names = []
    with os.scandir(folder) as every:
        for file in every:
            plain = file.is_file(follow_symlinks=False)
            if not plain or not file.name.endswith(FORMATS) or file.name in (UNIT, TIMING):
                raise RunError(
                    f"unit {kind} wrote {file.name}: a product is files, no folders, that end in "
                    f"{', '.join(FORMATS)}, and not {UNIT} or {TIMING}"
                )
            names.append(file.name)
    return sorted(names)


def hashed(path: Path) -> Part:
    """A file's hash and size."""
    with path.open("rb") as file:
        return Part(hashlib.file_digest(file, "sha256").hexdigest(), file.tell())


def sealed(path: Path) -> Part:
    """A file's hash, once it is on the disk."""
    part = hashed(path)
    try:
        flush(path)
    except OSError as error:
        raise refused(path, error, part.bytes) from None
    return part


def write(path: Path, data: bytes, *, flush: bool = True) -> None:
    """A new file, on the disk when this returns unless `flush` is off."""
    with path.open("wb") as file:
        file.write(data)
        if flush:
            file.flush()
            os.fsync(file.fileno())


def flush(path: Path) -> None:
    """What a file or folder holds, to the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def size(folder: Path) -> int:
    """Bytes of the files in a folder; 0 where there is none."""
    try:
        with os.scandir(folder) as every:
            return sum(file.stat(follow_symlinks=False).st_size for file in every)
    except OSError:  # another process removed it meanwhile
        return 0
