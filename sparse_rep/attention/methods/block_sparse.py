"""Block-sparse: the best key blocks of every query block by the product of their means (MInference)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, final

from pydantic import Field

from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import BlockMask
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.parts.blocks import (
    best_in_row,
    block_product,
    blocks_within,
    diagonal_blocks,
    finer,
    mean_pool,
    visible_blocks,
)
from sparse_rep.attention.methods.parts.budget import checked_budget
from sparse_rep.attention.methods.parts.scope import causal_prefill
from sparse_rep.config_base import Config


class BlockSparseConfig(Config):
    """Settings of MInference's block-sparse head (Jiang et al. 2024, arXiv 2407.02490, Algorithm 2)."""

    block: int = Field(default=64, ge=1)
    """Positions a block."""
    top: int = Field(default=100, ge=1)
    """Key blocks kept a query block, the forced ones among them."""


@final
@dataclass(frozen=True)
class BlockSparse(Method):
    """Score a block by mean(q) . mean(k); keep the top ones of every row of blocks.

    Its own block, the first block and the one before its own are always kept (as in the Sparse Frontier's version,
    arXiv 2504.17768), in that order where the budget is smaller. A budget sets `top`.
    """

    name: ClassVar[str] = "block_sparse"
    config: BlockSparseConfig = field(default_factory=BlockSparseConfig)

    def applies(self, context: Context) -> Applies:
        return causal_prefill(context)

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        fitting = finer(self, attention.context, budget)
        if fitting is not self:
            return fitting.estimate(attention, budget)
        block, context = self.config.block, attention.context
        top = self.config.top if budget is None else blocks_within(context, block, budget)
        visible = visible_blocks(context, block, block, attention.device)
        own = diagonal_blocks(context, block, block, attention.device)
        first, before = own.new_zeros(own.shape), own.new_zeros(own.shape)
        first[:, 0] = True
        before[1:, :-1] = own[1:, 1:]
        scores = block_product(
            mean_pool(attention.q, block), mean_pool(attention.k, block), context.group, attention.scaling
        )
        keep = best_in_row(scores, top, visible, (own, first, before))
        read = visible.sum().item() / context.visible_pairs
        return Estimate(BlockMask(keep, context.n, block, block), pairs_read=read, notes={"block": block})
