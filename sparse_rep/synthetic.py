"""Synthetic codes with the statistics of real ones, to size and time the store without a model. numpy only.

What the cost of storing codes depends on is kept: log-normal densities of latents (median 0.09 %, 99th percentile 3 %), bursts
(a latent that fires in a document fires there often), gamma-shaped activations on a scale of each latent's own, a Zipf
vocabulary. Which latents go together is not: they are independent given the document.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

DENSITY_MEDIAN = 0.00087
DENSITY_SIGMA = 1.55
DENSITY_MAX = 0.25
BURST_SHAPE = 0.35
"""Shape of the gamma factor by which a latent's density varies from document to document; smaller is burstier."""


@dataclass(frozen=True)
class SyntheticCodes:
    """A corpus of equal documents and the codes of one imaginary dictionary on it. Every part depends on the seed alone."""

    n_latents: int = 16_384
    doc_tokens: int = 1024
    vocabulary: int = 49_152
    seed: int = 0

    @cached_property
    def density(self) -> NDArray[np.float64]:
        """Share of tokens on which each latent fires (n_latents)."""
        rng = np.random.default_rng([self.seed, 1])
        return np.minimum(DENSITY_MEDIAN * np.exp(DENSITY_SIGMA * rng.standard_normal(self.n_latents)), DENSITY_MAX)

    @property
    def l0(self) -> float:
        """Active latents a token, expected."""
        return float(self.density.sum())

    def n_docs(self, rows: int) -> int:
        """Documents that hold about this many codes."""
        return max(1, round(rows / self.l0 / self.doc_tokens))

    def codes(self, doc_lo: int, doc_hi: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]:
        """feature, tok, act of documents [doc_lo, doc_hi), token by token as an encoder gives them."""
        rng = np.random.default_rng([self.seed, 2, doc_lo, doc_hi])
        docs = doc_hi - doc_lo
        burst = rng.standard_gamma(BURST_SHAPE, (docs, self.n_latents), dtype=np.float32) / BURST_SHAPE
        share = -np.expm1(-self.density.astype(np.float32) * burst)
        counts = rng.poisson(share * np.float32(self.doc_tokens)).ravel()
        pair = np.repeat(np.arange(docs * self.n_latents, dtype=np.uint32), counts)
        doc, feature = np.divmod(pair, np.uint32(self.n_latents))
        local = doc * np.uint32(self.doc_tokens) + rng.integers(0, self.doc_tokens, len(pair), dtype=np.uint32)
        key = np.sort(local.astype(np.uint64) << np.uint64(32) | feature)  # np.unique would hash: 18 times slower
        key = key[np.diff(key, prepend=np.uint64(2**64 - 1)) != 0]
        feature = (key & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        tok = (key >> np.uint64(32)).astype(np.uint32) + np.uint32(doc_lo * self.doc_tokens)
        act = rng.standard_gamma(1.5, len(key), dtype=np.float32) * self._scale[feature]
        return feature, tok, act

    def token_ids(self, n: int) -> NDArray[np.uint32]:
        """The first n token ids, by Zipf's law."""
        rng = np.random.default_rng([self.seed, 3])
        rank = np.exp(rng.random(n, dtype=np.float64) * np.log(self.vocabulary))
        return np.minimum(rank.astype(np.uint32), self.vocabulary - 1)

    @cached_property
    def _scale(self) -> NDArray[np.float32]:
        rng = np.random.default_rng([self.seed, 4])
        return np.exp(0.5 * rng.standard_normal(self.n_latents)).astype(np.float32)
