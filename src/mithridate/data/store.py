"""Where pixels lie: in memory, or in a scratch file for sets larger than a share of memory.

The scratch file holds *decoded* pixels. Decoding per Parquet row group on demand would decode
thousands of images for every shuffled batch; one decoding pass and a read of exactly the rows
that a batch asks for does not.
"""

from __future__ import annotations

import os
import re
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from math import prod
from pathlib import Path
from typing import IO, Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mithridate.errors import DataError, RunError

MEMORY_SHARE = 0.25
"""A split whose decoded pixels exceed this share of the available memory lies in a file."""

UNKNOWN_MEMORY = 8 * 2**30
"""Bytes taken as available where the system does not say."""

Pixels = NDArray[np.uint8]


@runtime_checkable
class Store(Protocol):
    """N images of one shape, read by row."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""

    def __len__(self) -> int: ...

    def read(self, rows: Tensor) -> Tensor:
        """A fresh uint8 (len(rows), C, H, W); rows: int64 (n,), each in 0..len - 1."""


@final
class TensorStore:
    """Pixels in memory. The tensor is shared with the caller, not copied.

    >>> TensorStore(torch.zeros(5, 1, 2, 2, dtype=torch.uint8)).read(torch.tensor([4, 0])).shape
    torch.Size([2, 1, 2, 2])
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images
        channels, height, width = images.shape[1:]
        self.image_shape = channels, height, width

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: Tensor) -> Tensor:
        return self.images.index_select(0, rows)


@final
class FileStore:
    """Decoded pixels in a nameless scratch file that vanishes with the store or the process.

    Rows are read at their position (POSIX pread): resident memory is that of the rows asked
    for, which a mapped file does not keep to, and threads and forked workers share no offset.

    >>> store = FileStore.spool([np.zeros((2, 1, 2, 2), np.uint8)])
    >>> len(store), store.read(torch.tensor([1])).sum().item()
    (2, 0)
    """

    def __init__(self, file: IO[bytes], count: int, image_shape: tuple[int, int, int]) -> None:
        self._file = file
        self._count = count
        self.image_shape = image_shape
        weakref.finalize(self, file.close)

    def __len__(self) -> int:
        return self._count

    def read(self, rows: Tensor) -> Tensor:
        out = np.empty((len(rows), *self.image_shape), np.uint8)
        size, descriptor = prod(self.image_shape), self._file.fileno()
        for image, row in zip(out.reshape(len(rows), size), rows.tolist(), strict=True):
            image[:] = np.frombuffer(os.pread(descriptor, size, row * size), np.uint8)
        return torch.from_numpy(out)

    @classmethod
    def spool(cls, chunks: Iterable[Pixels]) -> FileStore:
        """Write chunks (n, C, H, W) of one shape, one after the other.

        Raises:
            RunError: the file cannot be written.
        """
        file, folder = _scratch()
        count, shape = 0, (0, 0, 0)
        try:
            for chunk in chunks:
                _write(file, chunk, folder)
                count += len(chunk)
                shape = (chunk.shape[1], chunk.shape[2], chunk.shape[3])
        except BaseException:
            with suppress(OSError):  # a full disk refuses the last flush too; show the first error
                file.close()
            raise
        return cls(file, count, shape)


@final
class SubsetStore:
    """Rows of another store, in any order; costs 8 bytes a row."""

    def __init__(self, base: Store, rows: Tensor) -> None:
        # A subset of a subset looks straight into the first store, so depth stays one.
        if isinstance(base, SubsetStore):
            rows = base._rows[rows]
            base = base._base
        self._base: Store = base
        self._rows: Tensor = rows.clone()
        self.image_shape = base.image_shape

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, rows: Tensor) -> Tensor:
        return self._base.read(self._rows[rows])


@final
class ChangedStore:
    """Another store with some rows replaced; costs the new pixels and 8 bytes a row."""

    def __init__(self, base: Store, rows: Tensor, images: Tensor) -> None:
        self._base = base
        self._images = images.clone()
        self._place = torch.full((len(base),), -1)
        self._place[rows] = torch.arange(len(rows))
        self.image_shape = base.image_shape

    def __len__(self) -> int:
        return len(self._base)

    def read(self, rows: Tensor) -> Tensor:
        out = self._base.read(rows)
        place = self._place[rows]
        changed = place >= 0
        out[changed] = self._images[place[changed]]
        return out


def cache_folder() -> Path:
    """MITHRIDATE_CACHE, else $XDG_CACHE_HOME/mithridate, else ~/.cache/mithridate."""
    if named := os.environ.get("MITHRIDATE_CACHE"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mithridate"


def available_memory() -> int:
    """Bytes that can be used without swapping: MemAvailable, or the container's limit if lower."""
    kibibytes = re.search(r"^MemAvailable:\s+(\d+)", _text("/proc/meminfo"), re.MULTILINE)
    free = int(kibibytes[1]) * 1024 if kibibytes else UNKNOWN_MEMORY
    container = _text("/sys/fs/cgroup/memory.max").strip()
    return min(free, int(container)) if container.isdigit() else free


def build_store(
    chunks: Iterator[Pixels], count: int, *, memory_limit: int | None = None, what: str = "set"
) -> Store:
    """Collect decoded chunks: in memory, or in a file where `count` images exceed the limit.

    Args:
        chunks: uint8 (n, C, H, W), all of one (C, H, W); `count` images in all.
        memory_limit: bytes; by default MEMORY_SHARE of `available_memory()`.
        what: the set's name, for the error.

    Raises:
        DataError: more or fewer images than `count`, or none.
        RunError: the scratch file cannot be written.

    >>> images = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)
    >>> type(build_store(iter([images]), 2)), type(build_store(iter([images]), 2, memory_limit=7))
    (<class 'mithridate.data.store.TensorStore'>, <class 'mithridate.data.store.FileStore'>)
    """
    first = next(chunks, None)
    if first is None or not len(first):
        raise DataError(f"{what} holds no images: give at least one")
    limit = MEMORY_SHARE * available_memory() if memory_limit is None else memory_limit
    every = _counted(chain([first], chunks), count, what)
    if count * first[0].nbytes > limit:
        return FileStore.spool(every)
    pixels = np.empty((count, *first.shape[1:]), np.uint8)
    at = 0
    for chunk in every:
        pixels[at : at + len(chunk)] = chunk
        at += len(chunk)
    return TensorStore(torch.from_numpy(pixels))


def _counted(chunks: Iterable[Pixels], count: int, what: str) -> Iterator[Pixels]:
    seen = 0
    for chunk in chunks:
        seen += len(chunk)
        if seen > count:
            break
        yield chunk
    if seen != count:
        raise DataError(f"{what} announces {count} images and holds {seen}: get the file anew")


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # another system: nothing to read
        return ""


def _scratch() -> tuple[IO[bytes], str]:
    """A nameless file in the cache folder: a temporary folder is memory on many systems."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder), str(folder)
    except OSError:
        return tempfile.TemporaryFile(), tempfile.gettempdir()


def _write(file: IO[bytes], chunk: Pixels, folder: str) -> None:
    data: Any = np.ascontiguousarray(chunk)
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        raise RunError(
            f"cannot write decoded images under {folder} ({error.strerror or error}): "
            "set MITHRIDATE_CACHE to a folder with room"
        ) from None
