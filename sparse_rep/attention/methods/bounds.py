"""What no method can beat, and what every method should: oracles, chance, and the local window. None is from a paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from sparse_rep.attention.dense import rule_of
from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import BlockMask, LineMask, StreamedMask
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.parts.blocks import best_in_row, blocks_within, diagonal_blocks, finer, visible_blocks
from sparse_rep.attention.methods.parts.budget import checked_budget, keys_within
from sparse_rep.attention.methods.parts.scope import PREFILL
from sparse_rep.config_base import Config
from sparse_rep.kernels.attention import block_mass, log_sum_exp


class OracleBlocksConfig(Config):
    """How fine, and how much."""

    block: int = Field(default=128, ge=1)
    """Positions a block."""
    top: int = Field(default=16, ge=1)
    """Key blocks kept a query block."""


@final
@dataclass(frozen=True)
class OracleBlocks(Method):
    """The blocks of most attention in every row of blocks, found by computing all of it.

    The most recall that a mask of these blocks can have with the same number a row. A budget sets that number.
    """

    name: ClassVar[str] = "oracle_blocks"
    config: OracleBlocksConfig = field(default_factory=OracleBlocksConfig)

    def applies(self, context: Context) -> Applies:
        return PREFILL

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        fitting = finer(self, attention.context, budget)
        if fitting is not self:
            return fitting.estimate(attention, budget)
        block, context = self.config.block, attention.context
        top = self.config.top if budget is None else blocks_within(context, block, budget)
        visible = visible_blocks(context, block, block, attention.device)
        own = diagonal_blocks(context, block, block, attention.device)
        rule = rule_of(attention)
        lse = log_sum_exp(attention.q, attention.k, rule)
        mass = block_mass(attention.q, attention.k, lse, rule, block=block)
        keep = best_in_row(mass, top, visible, (own,))
        return Estimate(BlockMask(keep, context.n, block, block), pairs_read=1.0, notes={"block": block})


class OracleTokensConfig(Config):
    """How much."""

    top: int = Field(default=256, ge=1)
    """Keys kept a query, its own among them."""


@final
@dataclass(frozen=True)
class OracleTokens(Method):
    """Each query's keys of most attention: the most recall that any mask can have with the same number of keys a query.

    A budget sets that number. The mask is worked out anew for the rows it is asked for, so each reading costs a dense pass.
    """

    name: ClassVar[str] = "oracle_tokens"
    config: OracleTokensConfig = field(default_factory=OracleTokensConfig)

    def applies(self, context: Context) -> Applies:
        return PREFILL

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        top = self.config.top if budget is None else keys_within(attention.context, budget)
        n = attention.n

        def keep(head: int, lo: int, hi: int) -> Bool[Tensor, "r n"]:
            p = attention.probabilities(head, lo, hi)
            rows = torch.arange(hi - lo, device=p.device)
            p[rows, rows + lo] = float("inf")
            best = p.topk(min(top, n), -1).indices
            return torch.zeros_like(p, dtype=torch.bool).scatter_(1, best, True) & attention.visible(lo, hi)

        return Estimate(StreamedMask(attention.n_heads, n, keep), pairs_read=1.0)


class RandomBlocksConfig(Config):
    """How fine, how much, and which draw."""

    block: int = Field(default=128, ge=1)
    """Positions a block."""
    top: int = Field(default=16, ge=1)
    """Key blocks kept a query block, its own among them."""
    seed: int = 0
    """Of the draw; heads and rows draw apart from each other."""


@final
@dataclass(frozen=True)
class RandomBlocks(Method):
    """Key blocks at random in every row of blocks. A larger budget adds to the same draw."""

    name: ClassVar[str] = "random_blocks"
    config: RandomBlocksConfig = field(default_factory=RandomBlocksConfig)

    def applies(self, context: Context) -> Applies:
        return PREFILL

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        fitting = finer(self, attention.context, budget)
        if fitting is not self:
            return fitting.estimate(attention, budget)
        block, context = self.config.block, attention.context
        top = self.config.top if budget is None else blocks_within(context, block, budget)
        visible = visible_blocks(context, block, block, attention.device)
        own = diagonal_blocks(context, block, block, attention.device)
        draw = torch.Generator(attention.device).manual_seed(self.config.seed + 7919 * attention.layer)
        scores = torch.rand((attention.n_heads, *visible.shape), generator=draw, device=attention.device)
        keep = best_in_row(scores, top, visible, (own,))
        return Estimate(BlockMask(keep, context.n, block, block), notes={"block": block})


class LocalWindowConfig(Config):
    """How far back."""

    window: int = Field(default=1024, ge=1)
    """Last keys before a query, itself included."""


@final
@dataclass(frozen=True)
class LocalWindow(Method):
    """The nearest keys and nothing else. A budget sets the window."""

    name: ClassVar[str] = "local_window"
    config: LocalWindowConfig = field(default_factory=LocalWindowConfig)

    def applies(self, context: Context) -> Applies:
        return PREFILL if context.causal else Applies("n/a", "the window looks back; this layer is bidirectional")

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        window = self.config.window if budget is None else keys_within(attention.context, budget)
        near = torch.arange(attention.n, device=attention.device) < window
        offsets = near.expand(attention.n_heads, -1)
        return Estimate(LineMask(torch.zeros_like(offsets), offsets))
