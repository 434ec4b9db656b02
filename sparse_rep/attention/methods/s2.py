"""S2-Attention: local blocks and, head by head, another residue of a stride of blocks (Lin et al. 2024, arXiv 2407.17678)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import BlockMask
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.parts.blocks import finer, pairs_by_distance, visible_blocks
from sparse_rep.attention.methods.parts.budget import checked_budget, largest
from sparse_rep.attention.methods.parts.scope import causal_prefill
from sparse_rep.config_base import Config


class S2Config(Config):
    """Settings of the example in dkernel's README (github.com/linxihui/dkernel, MIT)."""

    block: int = Field(default=64, ge=1)
    """Positions a block."""
    local: int = Field(default=32, ge=1)
    """Blocks before a query block that every head keeps, its own included."""
    stride: int = Field(default=8, ge=1)
    """Of the blocks further back, a head keeps one in so many, at fixed positions, so that a cache can drop the others."""
    offset: int = 0
    """Shift of all heads' residues."""
    heterogeneous: bool = True
    """Heads keep different residues; otherwise all keep those of head 0."""
    dense_heads: int = Field(default=0, ge=0)
    """Last (key-value) heads that stay full."""


@final
@dataclass(frozen=True)
class S2(Method):
    """Keep block (q, k), k <= q, where q - k < local or (k + head * step + offset) % stride == 0.

    The step is max(1, stride // heads).

    As in dkernel, heads that share keys share a pattern while the step counts query heads. So the residues of the heads need
    not cover the stride: with fewer heads than the stride, and, under grouped queries, even with more. Blocks that no head ever
    keeps are reported in the notes. A budget keeps the local part to half of it and sets the stride by the rest.
    """

    name: ClassVar[str] = "s2"
    config: S2Config = field(default_factory=S2Config)

    def applies(self, context: Context) -> Applies:
        return causal_prefill(context)

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        fitting = finer(self, attention.context, budget)
        if fitting is not self:
            return fitting.estimate(attention, budget)
        c, context = self.config, attention.context
        local, stride = (c.local, c.stride) if budget is None else self._within(context, budget)
        keep = block_pattern(c, context, local, stride, attention.device)
        visible = visible_blocks(context, c.block, c.block, attention.device)
        uncovered = (visible & ~keep.any(0)).sum().item()
        notes = {
            "block": c.block,
            "local": local,
            "stride": stride,
            "residues": sorted({(h * head_step(context, stride)) % stride for h in range(context.n_kv_heads)}),
            "blocks_no_head_keeps": int(uncovered),
            "share_no_head_keeps": uncovered / visible.sum().item(),
        }
        return Estimate(BlockMask(keep, context.n, c.block, c.block), notes=notes)

    def _within(self, context: Context, budget: float) -> tuple[int, int]:
        """Local blocks within half of the budget, the smallest stride within all of it, and local blocks with what is left."""
        pairs = pairs_by_distance(context, self.config.block)
        near = F.pad(pairs.cumsum(0), (1, 0))
        limit = budget * context.visible_pairs

        def kept(local: int, stride: int) -> float:
            return (near[local] + (near[-1] - near[local]) / stride).item()

        local = largest(lambda x: kept(x, len(pairs)), limit / 2, 1, len(pairs))
        stride = -largest(lambda x: kept(local, -x), limit, -len(pairs), -1)
        return largest(lambda x: kept(x, stride), limit, local, len(pairs)), stride


def head_step(context: Context, stride: int) -> int:
    """How far the residues of neighbouring heads lie apart."""
    return max(1, stride // context.n_heads)


def block_pattern(
    config: S2Config, context: Context, local: int, stride: int, device: torch.device | None = None
) -> Bool[Tensor, "h b b"]:
    """The kept blocks of every query head, causal."""
    key = torch.arange(-(-context.n // config.block), device=device)
    apart = key[:, None] - key
    step = head_step(context, stride) if config.heterogeneous else 0
    heads = []
    for head in range(context.n_kv_heads):
        dense = head >= context.n_kv_heads - config.dense_heads
        kept = dense | (apart < local) | ((key + head * step + config.offset) % stride == 0)
        heads.append(kept & (apart >= 0))
    return torch.stack(heads).repeat_interleave(context.group, 0)
