"""The copy sorted by token: what fires here, which latents fire together. Shards ascend, so each is sorted on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sparse_rep.store import names
from sparse_rep.store.atomic import atomic_file
from sparse_rep.store.manifest import FileEntry
from sparse_rep.store.parquet import BY_TOKEN, CODES_SCHEMA, TableFile, codes_table, read_codes
from sparse_rep.store.rows import order_of

ROWS_A_FILE = 16 * 1024 * 1024
WRITERS = 2


def write_by_token(
    folder: Path, dictionary: str, generation: int, shards: Sequence[FileEntry], report: Callable[[float], None]
) -> tuple[FileEntry, ...]:
    """Write the codes of `shards`, which are in order of their tokens, sorted by (tok, feature)."""
    parts = _parts([file for file in shards if file.rows])

    def write(number: int) -> FileEntry:
        path = names.by_token_file(dictionary, number, generation)
        with atomic_file(folder / path) as file:
            out = TableFile(file, CODES_SCHEMA, BY_TOKEN)
            for shard in parts[number]:
                rows = read_codes(folder / shard.path)
                out.append(codes_table(rows.take(order_of(rows.tok, rows.feature))))
            out.close()
        return out.entry(path)

    entries = []
    with ThreadPoolExecutor(WRITERS) as pool:
        for number, entry in enumerate(pool.map(write, range(len(parts)))):
            entries.append(entry)
            report((number + 1) / len(parts))
    return tuple(entries)


def _parts(shards: Sequence[FileEntry]) -> list[list[FileEntry]]:
    parts: list[list[FileEntry]] = []
    rows = ROWS_A_FILE
    for shard in shards:
        if rows + shard.rows > ROWS_A_FILE:
            parts.append([])
            rows = 0
        parts[-1].append(shard)
        rows += shard.rows
    return parts
