"""Merging sorted shards into feature buckets, in bounded memory and without sorting.

Every shard is sorted by (feature, tok) and shards hold ascending tokens, so the place of each row in the merged order is known
from counts alone: (rows of smaller features) + (rows of this feature in earlier shards) + (its rank in its own shard). Rows are
scattered to that place; the features are handled in chunks of whole buckets so that a chunk fits the memory it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sparse_rep.store.parquet import ROW_GROUP, read_codes
from sparse_rep.store.rows import Codes

ROWS_PER_BUCKET = 8 * ROW_GROUP
"""Aimed at. Fewer make files too small to be worth opening, more make a look at one feature slower."""
MAX_BUCKETS = 256
READERS = 2


@dataclass(frozen=True)
class Chunk:
    """All codes of features [lo, lo + len(counts)), sorted by (feature, tok)."""

    lo: int
    counts: NDArray[np.int64]
    tok: NDArray[np.uint32]
    act: NDArray[np.float32]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each feature's rows begin, and the end: (len(counts) + 1)."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    @property
    def feature(self) -> NDArray[np.uint32]:
        """The feature of each row."""
        return np.repeat(np.arange(self.lo, self.lo + len(self.counts), dtype=np.uint32), self.counts)

    def buckets(self, size: int) -> Iterator[tuple[int, Codes]]:
        """The rows by bucket; empty buckets are left out. `lo` must be a multiple of `size`."""
        starts = self.starts
        for offset in range(0, len(self.counts), size):
            counts = self.counts[offset : offset + size]
            rows = slice(int(starts[offset]), int(starts[offset + len(counts)]))
            if rows.stop > rows.start:
                first = self.lo + offset
                feature = np.repeat(np.arange(first, first + len(counts), dtype=np.uint32), counts)
                yield first // size, Codes(feature, self.tok[rows], self.act[rows])


class ShardFiles:
    """Live shard files of one dictionary, in order of their tokens."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._groups = [_group_ranges(path) for path in self.paths]

    def counts(self, n_latents: int | None) -> NDArray[np.int64]:
        """Rows of each feature over all shards: (n_latents), or up to the largest feature seen."""
        total = np.zeros(n_latents or 0, dtype=np.int64)
        with ThreadPoolExecutor(READERS) as pool:
            for counts in pool.map(_count, self.paths):
                if len(counts) > len(total):
                    total = np.pad(total, (0, len(counts) - len(total)))
                total[: len(counts)] += counts
        return total

    def merge(self, lo: int, counts: NDArray[np.int64]) -> Chunk:
        """The chunk of features [lo, lo + len(counts)), of which there are `counts` rows."""
        n = int(counts.sum())
        tok, act = np.empty(n, dtype=np.uint32), np.empty(n, dtype=np.float32)
        nxt = np.cumsum(counts) - counts
        with ThreadPoolExecutor(READERS) as pool:
            for rows in pool.map(lambda shard: self._slice(shard, lo, lo + len(counts)), range(len(self.paths))):
                if not len(rows):
                    continue
                mine = np.bincount(rows.feature - np.uint32(lo), minlength=len(counts))
                place = np.repeat(nxt - (np.cumsum(mine) - mine), mine)
                place += np.arange(len(rows))
                tok[place] = rows.tok
                act[place] = rows.act
                nxt += mine
        return Chunk(lo, counts, tok, act)

    def _slice(self, shard: int, lo: int, hi: int) -> Codes:
        groups = [g for g, (first, last) in enumerate(self._groups[shard]) if first < hi and last >= lo]
        rows = read_codes(self.paths[shard], groups)
        a, b = np.searchsorted(rows.feature, [lo, hi])
        return Codes(rows.feature[a:b], rows.tok[a:b], rows.act[a:b])


def bucket_size(counts: NDArray[np.int64]) -> int:
    """Features a bucket: a power of two, so that buckets hold about `ROWS_PER_BUCKET` rows and are at most 256."""
    buckets = int(np.clip(counts.sum() // ROWS_PER_BUCKET, 1, MAX_BUCKETS))
    wanted = max(1, -(-len(counts) // buckets))
    return 1 << (wanted - 1).bit_length()


def chunk_bounds(counts: NDArray[np.int64], size: int, max_rows: int) -> Iterator[tuple[int, int]]:
    """Ranges [lo, hi) of whole buckets with at most `max_rows` rows each, or one bucket where that has more."""
    lo = rows = 0
    for bucket in range(0, len(counts), size):
        more = int(counts[bucket : bucket + size].sum())
        if rows and rows + more > max_rows:
            yield lo, bucket
            lo, rows = bucket, 0
        rows += more
    if lo < len(counts):
        yield lo, len(counts)


def _group_ranges(path: Path) -> list[tuple[int, int]]:
    """Smallest and largest feature of each row group."""
    with pq.ParquetFile(path) as file:
        column = file.schema_arrow.get_field_index("feature")
        statistics = [file.metadata.row_group(g).column(column).statistics for g in range(file.num_row_groups)]
    return [(s.min, s.max) for s in statistics if s is not None]


def _count(path: Path) -> NDArray[np.int64]:
    with pq.ParquetFile(path) as file:
        return np.bincount(file.read(columns=["feature"]).column(0).to_numpy())
