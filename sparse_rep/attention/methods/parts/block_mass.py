"""Attention summed over square blocks, a strip of queries at a time."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.methods.parts.blocks import sum_pool
from sparse_rep.attention.methods.parts.last_queries import group_probabilities


def block_mass(attention: LayerAttention, block: int) -> Float[Tensor, "h b b"]:
    """Attention mass of every block: entry (i, j) sums the rows of query block i, so a full block row sums to `block`."""
    heads = []
    for kv in range(attention.context.n_kv_heads):
        rows = [
            sum_pool(group_probabilities(attention, kv, lo, min(lo + block, attention.n)).sum(1), block)
            for lo in range(0, attention.n, block)
        ]
        heads.append(torch.stack(rows, 1))
    return torch.cat(heads)
