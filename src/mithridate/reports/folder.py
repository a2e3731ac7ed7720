"""The folder of a study: its record, its images and its pictures, written whole and read lazily."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mithridate.errors import InputError, RunError
from mithridate.reports.images import Array
from mithridate.reports.schema import VERSION, Cell, Study, Timing

STUDY, CELLS, IMAGES = "study.json", "cells.jsonl", "images.parquet"
PICTURES, TIMINGS = "pictures.safetensors", "timings.jsonl"
REPORT, TABLES = "report.html", "tables"
WRITTEN = (STUDY, CELLS, IMAGES, PICTURES, TIMINGS, REPORT, TABLES)
RECORD, ARRAYS = "record.json", "arrays.npz"
"""Of audits and attacks of version 0.1.0, which `old` reads."""
COLUMNS = {
    "cell": pa.string(),
    "image": pa.int32(),
    "label": pa.int16(),
    "clean": pa.int16(),
    "predicted": pa.int16(),
    "success": pa.bool_(),
    "l0": pa.float32(),
    "l1": pa.float32(),
    "l2": pa.float32(),
    "linf": pa.float32(),
    "queries": pa.int32(),
}
"""Columns of `images.parquet`: one row for each image of each cell. Other columns may follow."""


P = TypeVar("P", bound=BaseModel)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, SafetensorError) as error:
        raise damaged(path, error) from None


@dataclass(frozen=True)
class StudyFolder:
    """A study as it lies on the disk. Images and pictures are read when asked for.

    `memory` holds cell -> name -> picture of a record of another form, which has no such files.
    """

    path: Path
    study: Study
    cells: list[Cell]
    timings: list[Timing]
    memory: Mapping[str, Mapping[str, Array]] | None = None

    @property
    def image_rows(self) -> int:
        """Rows of `images.parquet`, 0 where there is none."""
        return int(self._parquet.metadata.num_rows) if self._parquet else 0

    def images(
        self, cells: Collection[str], columns: Sequence[str] | None = None
    ) -> pa.Table | None:
        """The rows of these cells, in the file's order; None where no image was recorded.

        Raises:
            InputError: the file is damaged.
        """
        if self._parquet is None:
            return None
        path = self.path / IMAGES
        wanted = [("cell", "in", list(cells) or [""])]
        with _reading(path):
            return pq.read_table(path, columns=columns and list(columns), filters=wanted)

    def arrays(self, cell: str, names: Collection[str] = ()) -> dict[str, Array]:
        """The pictures of one cell by name: those named, or all.

        Raises:
            InputError: the file is damaged.
        """
        there = self._pictures.get(cell, [])
        wanted = [name for name in (names or there) if name in there]
        if not wanted:
            return {}
        if self.memory is not None:
            return {name: self.memory[cell][name] for name in wanted}
        path = self.path / PICTURES
        with _reading(path), safe_open(str(path), framework="numpy") as file:
            return {name: file.get_tensor(f"{cell}:{name}").astype(np.float64) for name in wanted}

    def has_arrays(self, cell: str, names: Collection[str] = ()) -> bool:
        """Whether the cell has one of these pictures, or any."""
        stored = self._pictures.get(cell, [])
        return bool(stored and (not names or set(names) & set(stored)))

    @cached_property
    def _parquet(self) -> pq.ParquetFile | None:
        path = self.path / IMAGES
        if self.memory is not None or not path.exists():
            return None
        with _reading(path):
            file = pq.ParquetFile(path)
        missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
        if missing:
            raise InputError(f"{path} has no column {missing[0]}: run the study again")
        return file

    @cached_property
    def _pictures(self) -> dict[str, list[str]]:
        if self.memory is not None:
            return {cell: sorted(arrays) for cell, arrays in self.memory.items()}
        path = self.path / PICTURES
        if not path.exists():
            return {}
        with _reading(path), safe_open(str(path), framework="numpy") as file:
            keys = sorted(file.keys())
        by_cell: dict[str, list[str]] = {}
        for key in keys:
            cell, _, name = key.rpartition(":")
            by_cell.setdefault(cell, []).append(name)
        return by_cell


def read(folder: Path) -> StudyFolder:
    """The study in a folder; a record of the first form (`record.json`) is read as one.

    Raises:
        InputError: no study, or one that is broken, foreign or inconsistent, in one line.

    >>> read(Path("no-such-folder"))
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: no-such-folder has no study.json: give the folder that a run, ...
    """
    folder = Path(folder)
    if (folder / RECORD).exists():
        from mithridate.reports import old

        return old.read(folder)
    if not (folder / STUDY).is_file():
        raise InputError(
            f"{folder} has no {STUDY}: give the folder that a run, an audit or an attack wrote"
        )
    raw = as_json(content(folder / STUDY), str(folder / STUDY))
    version = raw.get("schema") if isinstance(raw, dict) else None
    if isinstance(version, bool) or version != VERSION:
        raise InputError(
            f"{folder / STUDY} has schema {version!r:.40}, this version reads schema {VERSION}: "
            "use the version of mithridate that wrote it"
        )
    study = _checked(Study, raw, str(folder / STUDY))
    cells = list(_lines(Cell, folder / CELLS))
    _agree(study, cells, str(folder / CELLS))
    orders = {matrix.name: list(matrix.axes) for matrix in study.matrices}
    timings = list(_lines(Timing, folder / TIMINGS)) if (folder / TIMINGS).exists() else []
    return StudyFolder(folder, study, [_in_order(c, orders[c.matrix]) for c in cells], timings)


def parts(
    study: Study | Mapping[str, Any],
    cells: Iterable[Cell | Mapping[str, Any]],
    timings: Iterable[Timing | Mapping[str, Any]] = (),
) -> tuple[Study, list[Cell], list[Timing]]:
    """The parts of a record that is not written yet, checked field by field and together.

    Raises:
        InputError: the first that does not fit, in one line.
    """
    whole = _checked(Study, study, STUDY)
    lines = [_checked(Cell, cell, CELLS) for cell in cells]
    _agree(whole, lines, CELLS)
    return whole, lines, [_checked(Timing, timing, TIMINGS) for timing in timings]


def check_own(folder: Path, study: str) -> None:
    """Refuse a folder that holds something else than the record of such a study.

    A report lies in a folder of its own: what lay there would be overwritten, and a data set with
    an `images.parquet` beside its pictures is no longer read as one of pictures.

    Raises:
        InputError: what is there.

    >>> check_own(Path("nowhere/yet"), "attack")
    """
    new = "give a new or an empty folder"
    try:
        names = {path.name for path in folder.iterdir() if path.suffix != ".part"}
    except OSError:
        return  # none yet, or no folder, which whoever makes it says
    if {RECORD, REPORT} <= names or (CELLS in names and names <= {*WRITTEN} - {STUDY}):
        return  # of version 0.1.0, or cut off before its last file
    record: Any = None
    if STUDY in names:
        with suppress(OSError, ValueError):
            record = json.loads((folder / STUDY).read_bytes())
    if isinstance(record, Mapping) and {"name", "spec_sha256"} <= record.keys():
        if record["name"] != study:
            raise InputError(f"{folder} holds the report of {record['name']!r}: {new}")
    elif names:
        raise InputError(f"{folder} holds {min(names)}, which is no report's: {new}")


def write(
    folder: Path,
    study: Study | Mapping[str, Any],
    cells: Iterable[Cell | Mapping[str, Any]],
    images: pa.Table | None = None,
    pictures: Mapping[str, NDArray[np.generic]] | None = None,
    timings: Iterable[Timing | Mapping[str, Any]] = (),
) -> None:
    """Store a study, `study.json` last, so that it never stands without its cells.

    Equal input gives equal bytes. Files of an earlier run that this one does not have go.

    Args:
        images: columns as in `COLUMNS`; columns beyond are kept.
        pictures: "CELL:NAME" -> array, stored as float32.

    Raises:
        InputError: the parts are not a study's, or do not fit together.
        RunError: the folder cannot be written.
    """
    folder = Path(folder)
    whole, lines, times = parts(study, cells, timings)
    table = None if images is None else _as_columns(images)
    known, arrays = {cell.id for cell in lines}, {}
    for key, array in sorted((pictures or {}).items()):
        if key.rpartition(":")[0] not in known:
            raise InputError(f"{PICTURES}: {key!r} belongs to no cell: name it CELL:NAME")
        arrays[key] = np.ascontiguousarray(array, np.float32)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made: {error.strerror}") from None
    tree = whole.model_dump(mode="json", by_alias=True)
    for name in ("spec", "environment"):  # the rest keeps its order: columns, axes, views
        tree[name] = json.loads(json.dumps(tree[name], sort_keys=True))
    text = json.dumps(tree, ensure_ascii=False, indent=1) + "\n"
    for name in (RECORD, ARRAYS):  # of the first form, which would be read in place of the study
        _place(folder / name, None)
    _place(folder / IMAGES, table and (lambda p: pq.write_table(table, p, compression="zstd")))
    _place(folder / PICTURES, arrays and save(arrays))  # its own file would be the owner's alone
    _place(folder / TIMINGS, times and "".join(map(_line, times)).encode())
    _place(folder / CELLS, "".join(map(_line, lines)).encode())
    _place(folder / STUDY, text.encode())


def _line(part: BaseModel) -> str:
    tree = part.model_dump(mode="json", by_alias=True)
    return json.dumps(tree, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n"


def replace(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there: whole or not at all.

    Raises:
        RunError: the folder cannot be written or the disk is full.
    """
    _place(path, content)


def _place(path: Path, content: bytes | Callable[[Path], object] | object) -> None:
    """Put a file in its place, from its bytes or by what fills it; without either, remove it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if callable(content):
            content(part)
        elif isinstance(content, bytes):
            part.write_bytes(content)
        else:
            path.unlink(missing_ok=True)
            return
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, pa.ArrowException, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
        raise RunError(
            f"{path} cannot be written: {reason}; choose another folder or make room"
        ) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _as_columns(images: pa.Table) -> pa.Table:
    missing = [name for name in COLUMNS if name not in images.column_names]
    if missing:
        raise InputError(f"{IMAGES} needs the column {missing[0]}")
    rest = [name for name in images.column_names if name not in COLUMNS]
    try:
        columns = [images[name].cast(kind) for name, kind in COLUMNS.items()]
    except pa.ArrowException as error:
        raise InputError(f"{IMAGES}: {' '.join(str(error).split())[:120]}") from None
    table = pa.table([*columns, *(images[name] for name in rest)], names=[*COLUMNS, *rest])
    return table.combine_chunks()


def _agree(study: Study, cells: Sequence[Cell], where: str) -> None:
    names = {matrix.name for matrix in study.matrices}
    seen: set[str] = set()
    for cell in cells:
        if cell.matrix not in names:
            raise InputError(f"{where}: cell {cell.id} is of no matrix of {STUDY}: {cell.matrix!r}")
        if cell.id in seen:
            raise InputError(f"{where}: cell {cell.id} is there twice")
        seen.add(cell.id)


def _in_order(cell: Cell, order: Sequence[str]) -> Cell:
    """The axes as the matrix has them: a line of JSON is sorted."""
    names = [*(axis for axis in order if axis in cell.axes), *cell.axes]
    return cell.model_copy(update={"axes": {axis: cell.axes[axis] for axis in names}})


def content(path: Path) -> bytes:
    """The bytes of a file that has to be there."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no {path.name}: run the study again") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _lines(model: type[P], path: Path) -> Iterator[P]:
    """The parts of a file of JSON lines."""
    for number, line in enumerate(content(path).split(b"\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _checked(model, as_json(line, where), where)


def as_json(text: bytes, where: str) -> Any:
    """JSON, as Python holds it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}): run the study again") from None


def _checked(model: type[P], raw: Any, where: str) -> P:
    """The part, checked field by field; the first fault is an InputError."""
    if isinstance(raw, model):
        return raw
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or model.__name__.lower()
        reason = " ".join(str(first["msg"]).removeprefix("Value error, ").split())
        raise InputError(f"{where}: {field}: {reason}") from None


def damaged(path: Path, error: Exception) -> InputError:
    """What to say of a file that cannot be read."""
    reason = " ".join(str(error).split())[:120]
    return InputError(f"{path} is damaged or foreign ({reason}): run the study again")
