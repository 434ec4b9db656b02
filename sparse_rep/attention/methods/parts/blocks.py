"""Pooled queries and keys, the blocks a layer sees, and the best of them in every row of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparse_rep.attention.layer import Context
from sparse_rep.attention.method import Method

M = TypeVar("M", bound=Method)
FINEST = 16
"""Smallest block that a kernel takes."""


def mean_pool(x: Float[Tensor, "h n d"], block: int) -> Float[Tensor, "h b d"]:
    """Mean of each block of positions, float32; a last, shorter block is the mean of what it has."""
    n = x.shape[1]
    whole = n // block
    full = x[:, : whole * block].unflatten(1, (whole, block)).mean(2, dtype=torch.float32)
    if whole * block == n:
        return full
    return torch.cat([full, x[:, whole * block :].mean(1, keepdim=True, dtype=torch.float32)], 1)


def sum_pool(x: Float[Tensor, "... n"], block: int) -> Float[Tensor, "... b"]:
    """Sum over each block of the last dimension; a last, shorter block is the sum of what it has."""
    n = x.shape[-1]
    b = -(-n // block)
    return F.pad(x, (0, b * block - n)).unflatten(-1, (b, block)).sum(-1)


def per_query_head(x: Float[Tensor, "g ..."], group: int) -> Float[Tensor, "h ..."]:
    """Repeat each key-value head for the query heads that read it."""
    return x.repeat_interleave(group, 0)


def block_product(
    q: Float[Tensor, "h a d"], k: Float[Tensor, "g b d"], group: int, scale: float
) -> Float[Tensor, "h a b"]:
    """Scaled products of every query head's rows with the rows of its key-value head."""
    s = torch.einsum("gmad,gbd->gmab", q.unflatten(0, (len(k), group)), k) * scale
    return s.flatten(0, 1)


def visible_blocks(
    context: Context, q_block: int, k_block: int, device: torch.device | None = None
) -> Bool[Tensor, "r c"]:
    """Blocks that hold at least one pair of the layer's own mask."""
    rows, columns = -(-context.n // q_block), -(-context.n // k_block)
    if not context.causal:
        return torch.ones((rows, columns), dtype=torch.bool, device=device)
    first_query = torch.arange(rows, device=device)[:, None] * q_block
    last_query = (first_query + q_block).clamp(max=context.n) - 1
    first_key = torch.arange(columns, device=device) * k_block
    seen = first_key <= last_query
    if context.window is not None:
        last_key = (first_key + k_block).clamp(max=context.n) - 1
        seen &= last_key > first_query - context.window
    return seen


def diagonal_blocks(
    context: Context, q_block: int, k_block: int, device: torch.device | None = None
) -> Bool[Tensor, "r c"]:
    """Blocks that hold some query's own key."""
    rows, columns = -(-context.n // q_block), -(-context.n // k_block)
    query = torch.arange(rows, device=device)[:, None] * q_block
    key = torch.arange(columns, device=device) * k_block
    return (key < query + q_block) & (query < key + k_block)


def block_pairs(context: Context, block: int, device: torch.device | None = None) -> Float[Tensor, "b b"]:
    """Visible pairs of every square block, exactly."""
    b, tail = -(-context.n // block), (context.n - 1) % block + 1
    if not context.causal:
        sizes = torch.full((b,), float(block), dtype=torch.float64, device=device)
        sizes[-1] = tail
        return torch.outer(sizes, sizes)
    whole, last = _pairs_of_rows(context, block, device)
    at = torch.arange(b, device=device)
    pairs = whole[(at[:, None] - at).clamp(min=0)].tril()
    pairs[-1] = last.flip(0)
    return pairs


def pairs_by_distance(context: Context, block: int) -> Float[Tensor, " b"]:
    """Visible pairs of all blocks that lie 0, 1, 2, ... blocks below the diagonal, together; on the CPU. Causal layers."""
    whole, last = _pairs_of_rows(context, block, None)
    return whole * (len(whole) - 1 - torch.arange(len(whole))) + last


def _pairs_of_rows(context: Context, block: int, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """Pairs of a block so many blocks below the diagonal: in a row of whole blocks, and in the last row."""
    b, tail = -(-context.n // block), (context.n - 1) % block + 1
    window, apart = context.window or context.n, torch.arange(b, device=device)
    if window >= context.n:
        whole, last = (
            torch.full((b,), float(rows * block), dtype=torch.float64, device=device) for rows in (block, tail)
        )
        whole[0], last[0] = block * (block + 1) / 2, tail * (tail + 1) / 2
        return whole, last
    last = _pairs_apart(apart, block, tail, block, window)
    last[0] = _pairs_apart(apart[:1], block, tail, tail, window)[0]
    return _pairs_apart(apart, block, block, block, window), last


def _pairs_apart(apart: Int[Tensor, " b"], block: int, rows: int, columns: int, window: int) -> Float[Tensor, " b"]:
    """Pairs at distance 0..window-1 in a rows x columns block that lies so many blocks below the diagonal."""
    shift = torch.arange(1 - columns, rows, device=apart.device)
    count = (shift + columns).clamp(max=rows) - shift.clamp(min=0)
    distance = apart[:, None] * block + shift
    return (count * ((distance >= 0) & (distance < window))).sum(1, dtype=torch.float64)


def blocks_within(context: Context, block: int, budget: float) -> int:
    """Most square blocks a row may keep, its own and then those nearest to it, within a share of the visible pairs.

    The number is the same in every row; rows that see fewer keep all.
    """
    # Without a window all blocks but a row's own hold equally many pairs, so that it does not matter which are kept.
    if context.causal:
        by_rank = pairs_by_distance(context, block)
    else:
        pairs = block_pairs(context, block)
        at = torch.arange(len(pairs))
        rank = (at[:, None] - at) % len(pairs)
        by_rank = torch.zeros(len(pairs), dtype=torch.float64).scatter_add_(0, rank.flatten(), pairs.flatten())
    kept = by_rank.cumsum(0)
    return int((kept <= budget * kept[-1]).sum().clamp(min=1))


def finer(method: M, context: Context, budget: float | None, floor: int = FINEST) -> M:
    """The method itself, or itself with blocks so small that a budget holds its own block and two more in every row.

    Papers choose blocks for texts of 32k tokens and up. At 1k a single row of 128-blocks is an eighth of the pairs, and methods
    could not be compared at the density asked for. Blocks are halved, to no less than `floor`, which kernels can still run.
    """
    settings: Any = method.config
    block = settings.block
    if budget is None:
        return method
    while block > floor and block % 2 == 0 and _smallest(context, block) > budget * context.visible_pairs:
        block //= 2
    return method if block == settings.block else replace(method, config=settings.model_copy(update={"block": block}))


def _smallest(context: Context, block: int) -> float:
    """Pairs of three blocks a row."""
    if context.causal:
        return pairs_by_distance(context, block)[:3].sum().item()
    return context.n * min(3 * block, context.n)


def best_in_row(
    scores: Float[Tensor, "h r c"],
    k: int,
    visible: Bool[Tensor, "r c"],
    forced: Sequence[Bool[Tensor, "r c"]] = (),
) -> Bool[Tensor, "h r c"]:
    """The k best visible blocks of every row. Blocks that are forced count among the k, the first kind first."""
    top = torch.finfo(scores.dtype).max
    scores = scores.masked_fill(~visible, float("-inf"))
    for rank in range(len(forced) - 1, -1, -1):
        scores = scores.masked_fill(forced[rank] & visible, top / 2**rank)
    best = scores.topk(min(k, scores.shape[-1]), -1).indices
    return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device).scatter_(-1, best, True) & visible
