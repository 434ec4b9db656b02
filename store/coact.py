"""Choosing the tokens on which co-activation is counted.

Counting pairs costs the sum of squares of a token's active latents, so the sample is bounded by pairs as well as by tokens;
how many tokens were looked at in the end is recorded beside the counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_rep.store.compact import Chunk
from sparse_rep.store.corpus_view import Encoded
from sparse_rep.store.pages import draw

PAIR_BUDGET = 100_000_000
"""Pairs counted at most, about 5 s on two cores."""
PAIRS_AT_ONCE = 25_000_000
"""Bounds the memory of one aggregation: 40 bytes a pair at worst."""


class TokenSample:
    """Collects the codes of a random sample of tokens while chunks of features go by."""

    def __init__(self, encoded: Encoded, wanted: int) -> None:
        self._share = min(1.0, wanted / max(encoded.n, 1))
        self._encoded = encoded
        self._feature: list[NDArray[np.uint32]] = []
        self._tok: list[NDArray[np.uint32]] = []

    def add(self, chunk: Chunk) -> None:
        if self._share >= 1:
            self._feature.append(chunk.feature)
            self._tok.append(chunk.tok)
            return
        kept = np.flatnonzero(_rank(chunk.tok) < self._limit)
        self._tok.append(chunk.tok[kept])
        of_row = np.searchsorted(chunk.starts, kept, side="right") - 1
        self._feature.append(of_row.astype(np.uint32) + np.uint32(chunk.lo))

    def result(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32], int]:
        """feature (rows), tok (rows), and the number of tokens looked at, those without any code included."""
        feature = np.concatenate(self._feature) if self._feature else np.empty(0, np.uint32)
        tok = np.concatenate(self._tok) if self._tok else np.empty(0, np.uint32)
        seen, n_active = np.unique(tok, return_counts=True)
        order = np.argsort(_rank(seen), kind="stable")
        within = np.cumsum(n_active[order].astype(np.float64) ** 2) <= PAIR_BUDGET
        if within.all():
            return feature, tok, self._n_below(self._limit)
        if not within.any():
            within[:1] = True
        last = _rank(seen[order[within][-1:]])
        keep = _rank(tok) <= last
        return feature[keep], tok[keep], self._n_below(int(last[0]) + 1)

    @property
    def _limit(self) -> int:
        return round(self._share * 2**32)

    def _n_below(self, limit: int) -> int:
        """Encoded tokens whose rank is below the limit."""
        if limit >= 2**32:
            return self._encoded.n
        ranges = (np.arange(lo, hi, dtype=np.uint32) for lo, hi in self._encoded.ranges)
        return sum(int((_rank(toks) < limit).sum()) for toks in ranges)


def _rank(tok: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The order in which tokens join a sample: random, and the same in every chunk."""
    return draw(np.zeros(len(tok), dtype=np.uint32), tok)


def feature_bounds(feature: NDArray[np.uint32], tok: NDArray[np.uint32]) -> list[int]:
    """Cuts between features such that each part has about `PAIRS_AT_ONCE` pairs."""
    if not len(feature):
        return [0, 1]
    _, at, n_active = np.unique(tok, return_inverse=True, return_counts=True)
    pairs = np.cumsum(np.bincount(feature, weights=n_active[at]))
    parts = max(1, int(np.ceil(pairs[-1] / PAIRS_AT_ONCE)))
    cuts = np.searchsorted(pairs, pairs[-1] * np.arange(1, parts) / parts) + 1
    return sorted({0, *cuts.tolist(), len(pairs)})
