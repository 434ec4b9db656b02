"""How many pairs a mask keeps, counted without writing it out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.attention.layer import Context
from sparse_rep.attention.masks import BlockMask, LineMask

STRIPS = 64
"""Rows of blocks counted at once."""


def keys_seen(context: Context, device: torch.device) -> Int[Tensor, " n"]:
    """Keys that each query may see under the layer's own mask."""
    if not context.causal:
        return torch.full((context.n,), context.n, device=device)
    seen = torch.arange(1, context.n + 1, device=device)
    return seen if context.window is None else seen.clamp(max=context.window)


def pairs_of_blocks(context: Context, block: int, device: torch.device) -> Float[Tensor, "b b"]:
    """Visible pairs in each square of `block` queries by `block` keys, fp64."""
    n, b = context.n, -(-context.n // block)
    starts = torch.arange(b, device=device) * block
    strips = []
    for lo in range(0, b, STRIPS):
        query = torch.arange(lo * block, min(lo + STRIPS, b) * block, device=device)[:, None]
        last = query + 1 if context.causal else torch.full_like(query, n)
        first = torch.zeros_like(query) if context.window is None else (query + 1 - context.window).clamp(min=0)
        inside = torch.minimum(last, (starts + block).clamp(max=n)) - torch.maximum(first, starts)
        strips.append((inside.clamp(min=0) * (query < n)).unflatten(0, (-1, block)).sum(1))
    return torch.cat(strips).double()


def keys_kept(mask: LineMask | BlockMask, context: Context) -> Float[Tensor, "h n"]:
    """Keys that each query really computes under lines, or under columns of groups of queries (k_block = 1); fp64.

    Inside a causal layer's mask, with each query's own key.
    """
    n, device = context.n, mask.columns.device if isinstance(mask, LineMask) else mask.keep.device
    own = torch.arange(n, device=device)
    first = torch.zeros_like(own) if context.window is None else (own + 1 - context.window).clamp(min=0)
    if isinstance(mask, BlockMask):
        assert mask.k_block == 1
        group = own // mask.q_block
        running = F.pad(mask.keep.cumsum(-1, dtype=torch.int32), (1, 0))
        kept = running[:, group, own + 1] - running[:, group, first]
        return (kept + ~mask.keep[:, group, own]).double()
    columns, offsets = mask.columns, mask.offsets.clone()
    if context.window is not None:
        offsets[:, context.window :] = False
    offsets[:, 0] = True
    running = F.pad(columns.cumsum(-1), (1, 0))
    in_columns = running[:, own + 1] - running[:, first]
    # Keys counted twice: column j and distance i - j, a convolution; exact once rounded.
    spectra = torch.fft.rfft(columns.double(), 2 * n) * torch.fft.rfft(offsets.double(), 2 * n)
    twice = torch.fft.irfft(spectra, 2 * n)[:, :n].round()
    return in_columns + offsets.cumsum(-1) - twice
