"""The folder of a run: `record.json`, `arrays.npz`, `report.html`; read and written whole."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mithridate.errors import InputError, RunError, unknown
from mithridate.reports.schema import Record, parse

Array = NDArray[np.float64]

RECORD, ARRAYS, REPORT = "record.json", "arrays.npz", "report.html"

SHAPES: dict[str, str] = {
    "confusion_clean": "KK",
    "confusion_poisoned": "KK",
    "mean_images": "KCHW",
    "maps_suspect": "KCHW",
    "maps_reference": "KCHW",
    "map_share_suspect": "K",
    "map_share_reference": "K",
    "difference": "CHW",
    "trigger": "CHW",
    "examples_clean": "MCHW",
    "examples_stamped": "MCHW",
    "pair_maps_suspect": "KKCHW",
    "pair_maps_reference": "KKCHW",
    "attack_clean": "MCHW",
    "attack_adversarial": "MCHW",
    "attack_difference": "MCHW",
    "grid_clean": "MCHW",
    "grid_labels": "M",
    "grid_wanted": "M",
    "grid_adversarial": "AMCHW",
    "grid_predicted": "AM",
}
"""The arrays that a run may store, all optional; K classes, C x H x W images, A attacks, any M.

NaN means "nothing there": a transparent pixel of the trigger, a class into which no image fell,
a pair that was not looked at. Confusions hold counts, true class by predicted class.
"""


def read(folder: Path) -> tuple[Record, dict[str, Array]]:
    """The record and the arrays of a run (no arrays where there is no `arrays.npz`).

    Raises:
        InputError: no folder, no record, or one that is broken, foreign or inconsistent.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the folder that an audit or attack wrote")
    path = folder / RECORD
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"{folder} has no {RECORD}: give the folder that an audit or attack wrote"
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    record = parse(text, str(path))
    return record, _read_arrays(folder / ARRAYS, record)


def write(folder: Path, record: Record, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Store a run, the arrays first, so that a record never stands without its pictures.

    Raises:
        InputError: an array of an unknown name or of the wrong shape.
        RunError: the folder cannot be written.
    """
    checked = {name: _checked(name, np.asarray(arrays[name]), record) for name in arrays}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made: {error.strerror}") from None
    small = {name: array.astype(np.float32) for name, array in checked.items()}
    with tempfile.TemporaryFile() as buffer:
        np.savez_compressed(buffer, allow_pickle=False, **small)
        buffer.seek(0)
        replace(folder / ARRAYS, buffer.read())
    replace(folder / RECORD, record.to_json().encode())


def replace(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there: whole or not at all.

    Raises:
        RunError: the folder cannot be written or the disk is full.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror}; choose another folder or make room"
        ) from None
    finally:
        if beside.exists():
            beside.unlink()


def _read_arrays(path: Path, record: Record) -> dict[str, Array]:
    if not path.exists():
        return {}
    broken = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            with stored:
                loaded = {name: stored[name] for name in stored.files}
    except broken as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is damaged or foreign ({reason}): run the audit again") from None
    return {name: _checked(name, array, record) for name, array in loaded.items()}


def _checked(name: str, array: NDArray[np.generic], record: Record) -> Array:
    if name not in SHAPES:
        raise unknown("array", name, SHAPES)
    channels, height, width = record.data.image_shape
    sizes = {"K": len(record.data.class_names), "C": channels, "H": height, "W": width}
    sizes["A"] = len(record.attacks)
    expected = tuple(sizes.get(letter) for letter in SHAPES[name])
    fits = array.ndim == len(expected) and all(
        want is None or want == got for want, got in zip(expected, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in "fiub":
        wanted = " x ".join("any" if size is None else str(size) for size in expected)
        raise InputError(
            f"array {name} must hold {wanted} numbers, got {array.shape} of {array.dtype}"
        )
    values = array.astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)
