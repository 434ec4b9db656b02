"""How arrays become Parquet. The encodings are what makes a code cost 2.5 bytes instead of 6.

Sorted tokens are stored as bit-packed differences, features through a dictionary, bf16 activations byte plane by byte plane (two
planes are zero, one is nearly incompressible, the exponent's takes 3 bits), all under zstd. A dictionary of activations would
cost its index width, 10 to 11 bits. pyarrow's defaults take 2.5 times as much, a DuckDB table 2.6 times.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sparse_rep.store.atomic import HashingFile, atomic_file
from sparse_rep.store.manifest import FileEntry
from sparse_rep.store.rows import Codes

ROW_GROUP = 262_144
FLOAT16_SAFE = 60_000.0
"""Dense activations up to this magnitude are kept as 16-bit floats (largest finite: 65,504)."""

CODES_SCHEMA = pa.schema(
    [
        pa.field("feature", pa.uint32(), nullable=False),
        pa.field("tok", pa.uint32(), nullable=False),
        pa.field("act", pa.float32(), nullable=False),
    ]
)
BY_FEATURE: dict[str, Any] = {
    "use_dictionary": ["feature"],
    "column_encoding": {"tok": "DELTA_BINARY_PACKED", "act": "BYTE_STREAM_SPLIT"},
    "compression_level": {"feature": 3, "tok": 3, "act": 5},
}
BY_TOKEN: dict[str, Any] = {
    "use_dictionary": ["tok"],
    "column_encoding": {"feature": "DELTA_BINARY_PACKED", "act": "BYTE_STREAM_SPLIT"},
    "compression_level": {"feature": 3, "tok": 3, "act": 5},
}
TOKENS: dict[str, Any] = {"use_dictionary": ["token_id"], "column_encoding": {"tok": "DELTA_BINARY_PACKED"}}
PLAIN: dict[str, Any] = {}
ENCODINGS: dict[str, dict[str, Any]] = {
    "routes": {
        "use_dictionary": ["layer", "rank", "expert"],
        "column_encoding": {"tok": "DELTA_BINARY_PACKED", "weight": "BYTE_STREAM_SPLIT", "margin": "BYTE_STREAM_SPLIT"},
    }
}
"""Of tables with as many rows as codes: a route of 64 experts takes 2.2 bytes by (layer, tok, rank), and 3.7 by expert."""
RUNS = {"routes": "layer"}
"""Columns by which such tables are sorted first and asked for: each of their values has row groups of its own."""


class TableFile:
    """A Parquet file being written in pieces."""

    def __init__(self, file: HashingFile, schema: pa.Schema, encoding: dict[str, Any]) -> None:
        self._file = file
        options = {"compression": "zstd", "compression_level": 3, **encoding}
        self._writer = pq.ParquetWriter(file, schema, write_statistics=True, store_schema=False, **options)
        self.rows = 0

    def append(self, table: pa.Table, row_group: int = ROW_GROUP) -> None:
        self._writer.write_table(table, row_group_size=row_group)
        self.rows += table.num_rows

    def close(self) -> None:
        self._writer.close()

    def entry(self, path: str) -> FileEntry:
        return FileEntry(path=path, rows=self.rows, bytes=self._file.bytes, sha256=self._file.sha256)


def write_parquet(
    folder: Path,
    path: str,
    table: pa.Table,
    encoding: dict[str, Any] = PLAIN,
    *,
    row_group: int = ROW_GROUP,
    runs: str | None = None,
) -> FileEntry:
    """Write `folder/path` atomically. Each run of equal values in column `runs` begins a row group."""
    with atomic_file(folder / path) as file:
        out = TableFile(file, table.schema, encoding)
        for part in [table] if runs is None else _runs(table, runs):
            out.append(part, row_group)
        out.close()
    return out.entry(path)


def _runs(table: pa.Table, column: str) -> Iterator[pa.Table]:
    values = table.column(column).to_numpy()
    starts = np.flatnonzero(np.diff(values, prepend=values[:1])).tolist()
    bounds = [0, *starts, len(values)]
    yield from (table.slice(lo, hi - lo) for lo, hi in itertools.pairwise(bounds))


def codes_table(codes: Codes) -> pa.Table:
    """Arrow view of the columns; copies nothing."""
    return pa.table([pa.array(codes.feature), pa.array(codes.tok), pa.array(codes.act)], schema=CODES_SCHEMA)


def read_codes(path: Path, row_groups: list[int] | None = None) -> Codes:
    """Codes of a file, or of some of its row groups."""
    with pq.ParquetFile(path) as file:
        table = file.read() if row_groups is None else file.read_row_groups(row_groups)
    return Codes(*(table.column(name).to_numpy() for name in ("feature", "tok", "act")))


def activations_table(tok: NDArray, x: NDArray[np.float32]) -> pa.Table:
    """tok (rows), x (rows, d) as a list column: 16-bit floats where all fit, else 32-bit."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    fits = not x.size or bool(np.abs(x).max() <= FLOAT16_SAFE)
    values = pa.array(x.astype(np.float16 if fits else np.float32).ravel())
    offsets = np.arange(0, x.size + 1, x.shape[1], dtype=np.int32) if x.size else np.zeros(1, np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), values)
    return pa.table({"tok": pa.array(np.asarray(tok, dtype=np.uint32)), "x": lists})
