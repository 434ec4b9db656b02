"""The gate that learns nothing: what routing is worth is what other gates have over it."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.errors import ConfigError
from sparse_rep.routing.gates.gate import Gate, Gated


@final
class HashGate(Gate):
    """Hash routing (Roller et al. 2021, arXiv 2106.04426): k fixed random experts for each id, equal weights.

    Args:
        buckets: ids are taken modulo this.
        seed: of the table.
    """

    table: Tensor

    def __init__(self, n_experts: int, k: int, buckets: int = 4096, seed: int = 0) -> None:
        super().__init__(n_experts, k)
        scores = torch.rand(buckets, n_experts, generator=torch.Generator().manual_seed(seed))
        table = torch.zeros(buckets, n_experts).scatter(1, scores.topk(k, dim=1).indices, 1 / k)
        self.register_buffer("table", table)

    def forward(self, x: Float[Tensor, "n d"], ids: Int[Tensor, " n"] | None = None) -> Gated:
        if ids is None:
            raise ConfigError("a hash gate routes by name: give it the ids of the tokens")
        return Gated(self.table[ids % self.table.shape[0]].to(x.dtype), x.new_zeros(()))
