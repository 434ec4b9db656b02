"""ProxyAttn: heads that look alike share one ranking of blocks, each head takes as many as it needs (arXiv 2509.24745)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import BlockMask
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.parts.blocks import (
    FINEST,
    blocks_within,
    diagonal_blocks,
    finer,
    sum_pool,
    visible_blocks,
)
from sparse_rep.attention.methods.parts.budget import checked_budget
from sparse_rep.attention.methods.parts.last_queries import group_probabilities
from sparse_rep.attention.methods.parts.lines import ranks
from sparse_rep.attention.methods.parts.scope import causal_prefill
from sparse_rep.config_base import Config


class ProxyAttnConfig(Config):
    """The paper states no constants and has no public code; these are ours, and say so."""

    block: int = Field(default=128, ge=1)
    """Positions a block."""
    groups: int | None = Field(default=None, ge=1)
    """Groups of consecutive heads that share a ranking; None: one a key-value head. Must divide the key-value heads."""
    stride: int = Field(default=16, ge=1)
    """Queries and keys of the proxy are every so many positions. Must divide `block`."""
    gamma: float = Field(default=0.95, gt=0, le=1)
    """Share of the attention of a head's last query block that its number of blocks must hold."""
    min_blocks: int = Field(default=2, ge=1)
    """Fewest blocks a row."""

    @model_validator(mode="after")
    def _stride_fits(self) -> Self:
        if self.block % self.stride:
            raise ValueError(f"stride={self.stride} must divide block={self.block}, so that every block is sampled")
        return self


@final
@dataclass(frozen=True)
class ProxyAttn(Method):
    """Average queries and keys over a group of heads, score tokens, and rank blocks by the most that a pair of theirs got.

    How many a head takes is how many its own last query block needs to reach gamma. It relies on heads ranking tokens alike.
    A row's own block is always kept. It adapts by itself; a budget gives every head the same number instead.
    """

    name: ClassVar[str] = "proxyattn"
    config: ProxyAttnConfig = field(default_factory=ProxyAttnConfig)

    def applies(self, context: Context) -> Applies:
        if self.config.groups is not None and context.n_kv_heads % self.config.groups:
            return Applies(
                "n/a", f"groups={self.config.groups} must divide the layer's {context.n_kv_heads} key-value heads"
            )
        return causal_prefill(context)

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        fitting = finer(self, attention.context, budget, max(FINEST, self.config.stride))
        if fitting is not self:
            return fitting.estimate(attention, budget)
        c, context = self.config, attention.context
        visible = visible_blocks(context, c.block, c.block, attention.device)
        scores = proxy_scores(attention, c.groups or context.n_kv_heads, c.stride, c.block)
        own = diagonal_blocks(context, c.block, c.block, attention.device)
        scores = scores.masked_fill(~visible, -1.0).masked_fill(own, float("inf"))
        place = ranks(scores.flatten(0, 1)).view(scores.shape)
        if budget is None:
            counts = self._blocks_needed(attention)
        else:
            counts = torch.full((context.n_heads,), blocks_within(context, c.block, budget), device=attention.device)
        shared = place.repeat_interleave(context.n_heads // len(place), 0)
        keep = (shared < counts[:, None, None]) & visible
        read = len(place) / context.n_heads / c.stride**2 + min(c.block, context.n) * context.n / context.visible_pairs
        return Estimate(
            BlockMask(keep, context.n, c.block, c.block),
            pairs_read=read,
            notes={"block": c.block, "blocks": counts.tolist()},
        )

    def _blocks_needed(self, attention: LayerAttention) -> Int[Tensor, " h"]:
        c = self.config
        lo = max(attention.n - c.block, 0)
        last = [group_probabilities(attention, kv, lo, attention.n) for kv in range(attention.context.n_kv_heads)]
        share = sum_pool(torch.cat([p.mean(1) for p in last]), c.block)
        running = share.sort(dim=-1, descending=True).values.cumsum(-1)
        reached = running >= c.gamma * running[:, -1:]
        return (reached.int().argmax(-1) + 1).clamp(min=c.min_blocks)


def proxy_scores(attention: LayerAttention, groups: int, stride: int, block: int) -> Float[Tensor, "p b b"]:
    """Most attention from a sampled query of a block to a sampled key of another, by the averaged heads of each of p groups."""
    context = attention.context
    at = torch.arange(0, context.n, stride, device=attention.device)
    q, k = (x[:, at].float().unflatten(0, (groups, -1)).mean(1) for x in (attention.q, attention.k))
    samples = block // stride
    rows = []
    for lo in range(0, len(at), _STRIP_BLOCKS * samples):
        s = q[:, lo : lo + _STRIP_BLOCKS * samples] @ k.mT * attention.scaling
        if attention.softcap is not None:
            s = attention.softcap * torch.tanh(s / attention.softcap)
        back = at[lo : lo + s.shape[1], None] - at
        hidden = (back < 0) | (back >= (context.window or context.n))
        p = s.masked_fill_(hidden, float("-inf")).softmax(-1)
        p = F.pad(p, (0, -len(at) % samples, 0, -s.shape[1] % samples))
        rows.append(p.unflatten(2, (-1, samples)).amax(3).unflatten(1, (-1, samples)).amax(2))
    return torch.cat(rows, 1)


_STRIP_BLOCKS = 32
"""Query blocks scored at a time."""
