"""What sealing needs to know about the tokens of a run: their ids, documents and contexts, by position.

The arrays live in scratch files, mapped into memory: for 10^9 tokens they are 8 GB, of which only what is looked at stays in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sparse_rep.store.corpus import documents, read_corpus

CONTEXT_BEFORE = 4
"""Two examples are the same when the token and this many before it are the same."""
_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Encoded:
    """Which tokens a run encoded: disjoint ascending ranges."""

    ranges: tuple[tuple[int, int], ...]

    @property
    def n(self) -> int:
        return sum(hi - lo for lo, hi in self.ranges)

    def below(self, tok: NDArray) -> NDArray[np.int64]:
        """Number of encoded tokens before each position."""
        lo = np.array([lo for lo, _ in self.ranges], dtype=np.int64)
        hi = np.array([hi for _, hi in self.ranges], dtype=np.int64)
        before = np.concatenate([[0], np.cumsum(hi - lo)])
        at = np.searchsorted(lo, tok, side="right") - 1
        inside = np.clip(np.asarray(tok, dtype=np.int64), lo[at], hi[at]) - lo[at]
        return np.where(at < 0, 0, before[at] + inside)


@dataclass(frozen=True)
class CorpusView:
    """Tokens and documents of a corpus."""

    token_ids: NDArray[np.uint32]
    """(n_tokens)"""
    doc_of: NDArray[np.uint32]
    """Row of `docs` for each token (n_tokens); tokens between documents belong to the one before them."""
    docs: pa.Table
    """Columns doc, tok_lo, tok_hi, domain, ..., in order of tok_lo."""
    vocab: Path
    """Parquet file of the vocabulary."""

    def contexts(self, tok: NDArray[np.uint32]) -> NDArray[np.uint64]:
        """A number for each position that is equal where the token and the `CONTEXT_BEFORE` tokens before it (within the
        document) are. A 64-bit polynomial hash: two different contexts among 10^6 collide with probability 10^-7."""
        lo = self.docs.column("tok_lo").to_numpy()[self.doc_of[tok]] if self.docs.num_rows else np.zeros_like(tok)
        key = np.zeros(len(tok), dtype=np.uint64)
        at = tok.astype(np.int64)
        for back in range(CONTEXT_BEFORE, -1, -1):
            position = at - back
            token = self.token_ids[np.maximum(position, 0)].astype(np.uint64) + np.uint64(1)
            key = key * _BASE + np.where(position >= lo, token, np.uint64(0))
        return key

    def domain_sizes(self, encoded: Encoded) -> dict[str, int]:
        """Encoded tokens of each domain."""
        sizes: dict[str, int] = {}
        covered = encoded.below(self.docs.column("tok_hi").to_numpy()) - encoded.below(
            self.docs.column("tok_lo").to_numpy()
        )
        for domain, n in zip(self.docs.column("domain").to_pylist(), covered.tolist(), strict=True):
            if domain is not None:
                sizes[domain] = sizes.get(domain, 0) + n
        return sizes

    def token_counts(self, encoded: Encoded) -> NDArray[np.int64]:
        """Occurrences of each token id among the encoded tokens: (largest id + 1)."""
        total = np.zeros(int(self.token_ids.max(initial=0)) + 1, dtype=np.int64)
        for lo, hi in encoded.ranges:
            total += np.bincount(self.token_ids[lo:hi], minlength=len(total))
        return total


def open_corpus(folder: Path, scratch: Path) -> CorpusView:
    """Map a corpus, unpacking its tokens into `scratch`."""
    record = read_corpus(folder)
    docs = documents(folder)
    token_ids = np.memmap(scratch / "token_ids", np.uint32, "w+", shape=(max(record.n_tokens, 1),))
    at = 0
    with pq.ParquetFile(folder / "tokens.parquet") as file:
        for batch in file.iter_batches(columns=["token_id"]):
            token_ids[at : at + batch.num_rows] = batch.column(0).to_numpy()
            at += batch.num_rows
    doc_of = np.memmap(scratch / "doc_of", np.uint32, "w+", shape=token_ids.shape)
    starts: Sequence[int] = docs.column("tok_lo").to_pylist()
    for row, (lo, hi) in enumerate(zip(starts, [*starts[1:], len(doc_of)], strict=True)):
        doc_of[lo:hi] = row
    return CorpusView(token_ids, doc_of, docs, folder / record.files["vocab"].path)
