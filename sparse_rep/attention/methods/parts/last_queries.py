"""What the last queries attend to: the cheap look at a head that most dynamic methods start from."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sparse_rep.attention.layer import LayerAttention


class LineMass(NamedTuple):
    """Attention of some queries, summed along columns and along diagonals."""

    columns: Float[Tensor, "h n"]
    """Mass on key j."""
    offsets: Float[Tensor, "h n"]
    """Mass at distance o between query and key."""


def group_probabilities(attention: LayerAttention, kv: int, lo: int, hi: int) -> Float[Tensor, "m r n"]:
    """Attention of queries lo..hi-1 of the m query heads that share a key-value head, float32.

    Keys from `hi` on are there as zeros. A sink takes its share, so that rows may sum to less than 1.
    """
    m = attention.context.group
    heads = slice(kv * m, (kv + 1) * m)
    q, k = attention.q[heads, lo:hi].float(), attention.k[kv].float()
    s = (q.flatten(0, 1) @ k.T).view(m, hi - lo, -1) * attention.scaling
    if attention.softcap is not None:
        s = attention.softcap * torch.tanh(s / attention.softcap)
    s = s.masked_fill_(~attention.visible(lo, hi), float("-inf"))
    if attention.sinks is None:
        return s.softmax(-1)
    sink = attention.sinks[heads].float().view(m, 1, 1).expand(m, hi - lo, 1)
    return torch.cat([s, sink], -1).softmax(-1)[..., :-1]


def diagonal_sums(p: Float[Tensor, "m r n"], lo: int) -> Float[Tensor, "m n"]:
    """Sum over queries lo..lo+r-1 of what each gives to the key at distance o, for o = 0..n-1."""
    m, r, n = p.shape
    # With keys flipped, distance o of the r-th query stands at o + shift - r; a view one step shorter than a row lines them up.
    shift = n - 1 - lo
    wide = F.pad(p.flip(-1), (0, shift))
    return wide.as_strided((m, r, n), (wide.stride(0), wide.stride(1) - 1, 1), shift).sum(1)


def last_query_mass(attention: LayerAttention, last: int) -> LineMass:
    """Columns and diagonals of the last queries' attention. Computes `last` x n logits a head, a key-value head at a time."""
    lo = max(attention.n - last, 0)
    columns, offsets = [], []
    for kv in range(attention.context.n_kv_heads):
        p = group_probabilities(attention, kv, lo, attention.n)
        columns.append(p.sum(1))
        offsets.append(diagonal_sums(p, lo))
    return LineMass(torch.cat(columns), torch.cat(offsets))
