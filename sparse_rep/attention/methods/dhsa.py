"""DHSA: chunks where attention changes, scored as wholes, then as many of their tokens as fit (arXiv 2510.24606)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import LineMask, StreamedMask, UnionMask
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.parts.blocks import block_product, mean_pool, per_query_head
from sparse_rep.attention.methods.parts.budget import checked_budget, keys_within, largest, nearest_pairs
from sparse_rep.attention.methods.parts.last_queries import last_query_mass
from sparse_rep.attention.methods.parts.scope import causal_prefill
from sparse_rep.config_base import Config


class DHSAConfig(Config):
    """Settings of the official code as far as it states them."""

    block: int = Field(default=64, ge=1)
    """Queries that share a choice. Ours."""
    span: int = Field(default=4, ge=1)
    """Keys before and after a position whose mass is compared."""
    ratio: float = Field(default=1.1, ge=1)
    """A boundary lies where the larger of the two masses exceeds the smaller by this factor."""
    apart: int = Field(default=8, ge=1)
    """Of boundaries nearer than this, the sharpest stays."""
    chunk: int = Field(default=32, ge=1)
    """At most one boundary for so many positions, the sharpest ones. Ours: the code caps their number."""
    last: int = Field(default=256, ge=1)
    """Queries at the end whose attention places the boundaries. Ours: the code's labels use all later queries."""
    local: int = Field(default=64, ge=1)
    """Last keys before a query that are always kept."""
    top: int = Field(default=1024, ge=1)
    """Further keys kept a query block."""


@final
@dataclass(frozen=True)
class DHSA(Method):
    """Cut the keys into chunks, score a chunk by its mean key times the root of its length, keep tokens by their chunk's score.

    The official method trains a small predictor on keys to place the boundaries that attention would; we have no such predictor
    and place them by the labels themselves, from the last queries. A chunk that only partly fits gives its first tokens. A budget
    sets `top`, and `local` to at most half of it.
    """

    name: ClassVar[str] = "dhsa"
    config: DHSAConfig = field(default_factory=DHSAConfig)

    def applies(self, context: Context) -> Applies:
        return causal_prefill(context)

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        c, context, device = self.config, attention.context, attention.device
        top, local = (c.top, c.local) if budget is None else self._sizes(context, budget)
        mass = last_query_mass(attention, c.last).columns.unflatten(0, (-1, context.group)).mean(1)
        # The last keys are seen by few of the queries that vote, which is no change of attention.
        mass = mass / torch.arange(context.n, 0, -1, device=device).clamp(max=c.last)
        chunks = cut(boundaries(mass, c))
        root = chunks.lengths.sqrt()
        means = chunk_means(attention.k.float(), chunks)
        q = mean_pool(attention.q, c.block) * math.sqrt(c.block)
        scores = block_product(q, means * root[..., None], context.group, attention.scaling)
        taken = _tokens_of_chunks(scores, per_query_head(chunks.starts, context.group), context.n, c.block, top)
        of_token, inside = (
            chunks.of_token,
            torch.arange(context.n, device=device) - chunks.starts.gather(1, chunks.of_token),
        )

        def keep(head: int, lo: int, hi: int) -> Bool[Tensor, "r n"]:
            kv = attention.kv_of(head)
            first, last = lo // c.block, (hi - 1) // c.block + 1
            rows = taken[head, first:last][:, of_token[kv]] > inside[kv]
            return rows.repeat_interleave(c.block, 0)[lo - first * c.block :][: hi - lo]

        near = (torch.arange(context.n, device=device) < local).expand(context.n_heads, -1)
        mask = UnionMask((LineMask(torch.zeros_like(near), near), StreamedMask(context.n_heads, context.n, keep)))
        read = min(c.last, context.n) * context.n + scores.shape[1] * scores.shape[2]
        notes = {"chunks": (chunks.lengths > 0).sum(1).tolist(), "top": top, "local": local}
        return Estimate(mask, pairs_read=read / context.visible_pairs, notes=notes)

    def _sizes(self, context: Context, budget: float) -> tuple[int, int]:
        local = min(self.config.local, max(keys_within(context, budget) // 2, 1))
        limit = budget * context.visible_pairs
        return largest(lambda k: nearest_pairs(context, local + k), limit, 0, context.n), local


class Chunks(NamedTuple):
    """Consecutive chunks of keys, of each key-value head its own; unused chunks are empty and lie at the end."""

    starts: Int[Tensor, "g c"]
    lengths: Float[Tensor, "g c"]
    of_token: Int[Tensor, "g n"]


def boundaries(mass: Float[Tensor, "g n"], config: DHSAConfig) -> Bool[Tensor, "g n"]:
    """Positions where a chunk starts: 0, and where the mass on the keys before and after changes sharply."""
    n = mass.shape[1]
    running = F.pad(mass.double().cumsum(1), (1, 0))
    at = torch.arange(n, device=mass.device)
    left = running[:, at] - running[:, (at - config.span).clamp(min=0)]
    right = running[:, (at + config.span).clamp(max=n)] - running[:, at]
    eps = torch.finfo(torch.float32).eps
    sharp = ((torch.maximum(left, right) + eps) / (torch.minimum(left, right) + eps)).float()
    # A mean over fewer keys at an end is no change of attention.
    whole = (at >= config.span) & (at <= n - config.span)
    sharp = torch.where(whole & (sharp > config.ratio), sharp, 0.0)
    peak = F.max_pool1d(sharp[:, None], 2 * config.apart - 1, stride=1, padding=config.apart - 1)[:, 0]
    sharp = torch.where(sharp == peak, sharp, 0.0)
    best = sharp.topk(min(max(n // config.chunk, 1), n), 1).indices
    starts = torch.zeros_like(sharp, dtype=torch.bool).scatter_(1, best, True) & (sharp > 0)
    starts[:, 0] = True
    return starts


def cut(starts: Bool[Tensor, "g n"]) -> Chunks:
    """Chunks from the positions where they start."""
    of_token = starts.cumsum(1) - 1
    count = int(of_token.max()) + 1
    lengths = torch.zeros((len(starts), count), device=starts.device).scatter_add_(
        1, of_token, torch.ones_like(of_token, dtype=torch.float)
    )
    firsts = (lengths.cumsum(1) - lengths).long()
    return Chunks(firsts, lengths, of_token)


def chunk_means(k: Float[Tensor, "g n d"], chunks: Chunks) -> Float[Tensor, "g c d"]:
    """Mean key of every chunk; zero for an empty one."""
    g, _, d = k.shape
    sums = k.new_zeros((g, chunks.lengths.shape[1], d)).scatter_add_(1, chunks.of_token[..., None].expand_as(k), k)
    return sums / chunks.lengths.clamp(min=1)[..., None]


def _tokens_of_chunks(
    scores: Float[Tensor, "h r c"], starts: Int[Tensor, "h c"], n: int, block: int, top: int
) -> Int[Tensor, "h r c"]:
    """How many leading tokens of every chunk a query block keeps: whole chunks by score, until `top` tokens are taken."""
    ends = torch.cat([starts[:, 1:], torch.full_like(starts[:, :1], n)], 1)
    stop = (torch.arange(scores.shape[1], device=scores.device) + 1) * block
    reach = torch.minimum(ends[:, None], stop[:, None]) - torch.minimum(starts[:, None], stop[:, None])
    order = scores.masked_fill(reach == 0, float("-inf")).argsort(dim=-1, descending=True, stable=True)
    sizes = reach.gather(-1, order)
    before = sizes.cumsum(-1) - sizes
    return torch.zeros_like(reach).scatter_(-1, order, (top - before).clamp(min=0).minimum(sizes))
