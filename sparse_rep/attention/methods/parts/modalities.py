"""Lines between positions of two kinds: their mass, and as many of them as a budget allows."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.masks import LineMask
from sparse_rep.attention.methods.parts.budget import largest_each
from sparse_rep.attention.methods.parts.last_queries import LineMass, diagonal_sums, group_probabilities
from sparse_rep.attention.methods.parts.lines import RankedLines, split


def mass_between(attention: LayerAttention, queries: Int[Tensor, " r"], keys: Bool[Tensor, " n"]) -> LineMass:
    """Columns and diagonals of the attention that some queries give some keys."""
    h, n = attention.n_heads, attention.n
    columns, offsets = (torch.zeros((h, n), device=attention.device) for _ in range(2))
    group = attention.context.group
    for kv in range(attention.context.n_kv_heads):
        heads = slice(kv * group, (kv + 1) * group)
        for row in queries.tolist():
            p = group_probabilities(attention, kv, row, row + 1) * keys
            columns[heads] += p.sum(1)
            offsets[heads] += diagonal_sums(p, row)
    return LineMass(columns, offsets)


def lines_between(
    ranked: RankedLines,
    queries: Bool[Tensor, " n"],
    keys: Bool[Tensor, " n"],
    budget: float,
    columns: int,
    offsets: int,
) -> LineMask:
    """As many lines as a share of the causal pairs of these queries with these keys allows, in a setting's proportions."""
    n = len(queries)
    every = torch.ones((1, n), dtype=torch.bool, device=queries.device)

    def chosen(lines: Tensor) -> LineMask:
        return ranked.scaled(*split(lines, columns / (columns + offsets), n), columns, offsets)

    limit = budget * pairs_between(LineMask(every, every), queries, keys).item()
    return chosen(largest_each(lambda m: pairs_between(chosen(m), queries, keys), limit, 0, 2 * n, ranked.columns))


def pairs_between(mask: LineMask, queries: Bool[Tensor, " n"], keys: Bool[Tensor, " n"]) -> Float[Tensor, " h"]:
    """Causal pairs of these queries with these keys on any kept line, exactly and without the pairs."""
    later = queries.flip(0).cumsum(0).flip(0)
    on_columns = ((mask.columns & keys) * later).sum(1).double()
    on_offsets = (mask.offsets * _lags(keys[None], queries)).sum(1)
    both = (mask.offsets * _lags(mask.columns & keys, queries)).sum(1)
    return on_columns + on_offsets - both


def _lags(keys: Bool[Tensor, "h n"], queries: Bool[Tensor, " n"]) -> Float[Tensor, "h n"]:
    """How many of the queries lie at distance o after one of the keys, for o = 0..n-1."""
    n = len(queries)
    spectrum = torch.fft.rfft(queries.double(), 2 * n) * torch.fft.rfft(keys.double(), 2 * n).conj()
    return torch.fft.irfft(spectrum, 2 * n)[:, :n].round()
