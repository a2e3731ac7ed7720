"""Tables of per-image results, as Parquet: written whole, and the same for equal tables."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mithridate.networks.storage import write

COLUMNS = pa.schema(
    [
        ("image", pa.int32()),
        ("label", pa.int16()),
        ("clean", pa.int16()),
        ("predicted", pa.int16()),
        ("success", pa.bool_()),
        ("l0", pa.float32()),
        ("l1", pa.float32()),
        ("l2", pa.float32()),
        ("linf", pa.float32()),
        ("queries", pa.int32()),
    ]
)
"""What is known of each image: its row in the test set, its true class, the prediction before
and after, whether the attacker's goal was reached, the distances, and the queries it took
(null where the attack's bookkeeping does not tell)."""


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table.

    Raises:
        RunError: the folder cannot be written, or the disk is full.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write(path, sink.getvalue().to_pybytes())


def read_table(path: Path) -> pa.Table:
    """A table that `write_table` wrote."""
    return pq.read_table(path)
