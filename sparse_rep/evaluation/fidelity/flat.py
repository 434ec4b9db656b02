"""A world without a hierarchy: more features than dimensions, each active by itself, a few often and most seldom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_rep.activations import ActivationBatch, ActivationSource
from sparse_rep.evaluation.fidelity.streams import HELDOUT, TOKENS, WORLD, generator
from sparse_rep.saes.unit_rows import random_unit_rows


@final
class FlatWorld(ActivationSource):
    """f unit directions in d dimensions; feature i is active with a probability in proportion to i^-1/2, l0 of them in the mean.

    Magnitudes are normal with mean 1.5 and deviation 0.25, as in the hierarchy toy. Chunks go on without end and each depends
    on the seed and its number alone.
    """

    CHUNK_TOKENS = 8192

    def __init__(self, seed: int, n_features: int = 256, d: int = 64, l0: float = 8.0) -> None:
        self.seed, self.d_in, self.l0 = seed, d, l0
        self.directions: Float[Tensor, "f d"] = random_unit_rows(n_features, d, generator(seed, WORLD))
        frequency = torch.arange(1, n_features + 1).float().rsqrt()
        self.probability: Float[Tensor, " f"] = frequency * l0 / frequency.sum()

    def heldout(self, n: int) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n f"]]:
        """Tokens that no chunk holds, with the true magnitudes of their features."""
        active = self._magnitudes(n, HELDOUT)
        return active @ self.directions, active

    def chunks(self, start: int = 0) -> Iterator[ActivationBatch]:
        for chunk in range(start, self.n_chunks()):
            yield ActivationBatch(self._magnitudes(self.CHUNK_TOKENS, TOKENS, chunk) @ self.directions)

    def n_chunks(self) -> int:
        return 1_000_000

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "flat",
            "seed": self.seed,
            "n_features": len(self.directions),
            "d_in": self.d_in,
            "l0": self.l0,
        }

    def _magnitudes(self, n: int, purpose: int, number: int = 0) -> Float[Tensor, "n f"]:
        rng = generator(self.seed, purpose, number)
        active = torch.rand(n, len(self.probability), generator=rng) < self.probability
        return active * (1.5 + 0.25 * torch.randn(active.shape, generator=rng))
