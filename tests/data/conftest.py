"""Small sets on disk, in the layouts that the loaders read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

FILES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["zero", "one", "two"]


def encode(pixels: np.ndarray[Any, Any], kind: str = "PNG") -> bytes:
    """One H x W or H x W x 3 image as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write(
    file: Path,
    blobs: Sequence[bytes | None],
    labels: Sequence[Any],
    *,
    names: list[str] | None = NAMES,
    columns: tuple[str, str] = ("image", "label"),
    rows: int = 4,
) -> Path:
    """A Parquet shard in the hub's layout, `rows` per row group."""
    image, label = columns
    table = pa.table(
        {
            image: pa.array([{"bytes": blob, "path": None} for blob in blobs], FILES),
            label: pa.array(labels),
        }
    )
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
        told = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": told})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=rows)
    return file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MITHRIDATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def make() -> Callable[..., Path]:
    return write


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    return encode


@pytest.fixture
def pixels() -> np.ndarray[Any, Any]:
    """Ten random grey images, 5 x 4."""
    return np.random.default_rng(0).integers(0, 256, (10, 5, 4), dtype=np.uint8)


@pytest.fixture
def hub_folder(tmp_path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    """Two train shards (4 and 3 images) and one test shard (3), three classes."""
    blobs = [encode(image) for image in pixels]
    folder = tmp_path / "small"
    write(folder / "train-00000-of-00002.parquet", blobs[:4], [0, 1, 2, 0], rows=2)
    write(folder / "train-00001-of-00002.parquet", blobs[4:7], [1, 2, 0])
    write(folder / "test-00000-of-00001.parquet", blobs[7:], [2, 1, 0])
    return folder
