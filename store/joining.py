"""Big tables of a sealed run: the shards' files joined into one file for each value that they are asked by, such as a layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sparse_rep.store import names
from sparse_rep.store.atomic import atomic_file
from sparse_rep.store.manifest import FileEntry
from sparse_rep.store.parquet import ENCODINGS, ROW_GROUP, RUNS, TableFile


def join(
    folder: Path, table: str, generation: int, shards: Sequence[FileEntry], report: Callable[[float], None]
) -> tuple[FileEntry, ...]:
    """Write one file for each value of the column `RUNS[table]`, its rows in the order of the shards.

    Shards are sorted by that column and each of its values has row groups of its own, so the footers say where a value lies
    and a row group at a time is in memory.
    """
    places: dict[int, list[tuple[Path, list[int]]]] = defaultdict(list)
    for shard in shards:
        with pq.ParquetFile(folder / shard.path) as file:
            column = file.schema_arrow.get_field_index(RUNS[table])
            groups: dict[int, list[int]] = defaultdict(list)
            for number in range(file.num_row_groups):
                statistics = file.metadata.row_group(number).column(column).statistics
                assert statistics.min == statistics.max, "a row group holds one value"
                groups[statistics.min].append(number)
        for value, numbers in groups.items():
            places[value].append((folder / shard.path, numbers))
    entries = []
    for done, value in enumerate(sorted(places)):
        path = names.joined_file(table, value, generation)
        with atomic_file(folder / path) as file:
            schema = pq.read_schema(places[value][0][0])
            out = TableFile(file, schema, ENCODINGS[table])
            _copy(places[value], out)
            out.close()
        entries.append(out.entry(path))
        report((done + 1) / len(places))
    return tuple(entries)


def _copy(places: Sequence[tuple[Path, list[int]]], out: TableFile) -> None:
    """Row groups of many files, gathered to whole ones."""
    waiting: list[pa.Table] = []
    for path, numbers in places:
        with pq.ParquetFile(path) as file:
            waiting.append(file.read_row_groups(numbers))
        if sum(part.num_rows for part in waiting) >= ROW_GROUP:
            rows = pa.concat_tables(waiting)
            whole = len(rows) // ROW_GROUP * ROW_GROUP
            out.append(rows.slice(0, whole))
            waiting = [rows.slice(whole)]
    if sum(part.num_rows for part in waiting):
        out.append(pa.concat_tables(waiting))
