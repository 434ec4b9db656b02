"""FlexPrefill: each head takes as many lines or blocks as its own attention asks for (Lai et al. 2025, arXiv 2502.20766)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import BlockMask
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.parts.blocks import (
    block_pairs,
    block_product,
    finer,
    mean_pool,
    sum_pool,
    visible_blocks,
)
from sparse_rep.attention.methods.parts.budget import checked_budget, largest_each
from sparse_rep.attention.methods.parts.last_queries import last_query_mass
from sparse_rep.attention.methods.parts.lines import rank_lines, ranks
from sparse_rep.attention.methods.parts.scope import causal_prefill
from sparse_rep.config_base import Config


class FlexPrefillConfig(Config):
    """Block and floor as read in MInference's copy of the code (MIT); gamma and tau as AnchorAttention's baseline."""

    block: int = Field(default=128, ge=1)
    """Positions a block; also the queries at the end that are looked at."""
    gamma: float = Field(default=0.95, gt=0, le=1)
    """Share of attention that the chosen lines or blocks must hold."""
    tau: float = Field(default=0.1, ge=0)
    """A head is query-aware where pooled products predict its last block's attention to this root Jensen-Shannon distance."""
    min_blocks: int = Field(default=1, ge=1)
    """Fewest vertical and fewest slash blocks."""


@final
@dataclass(frozen=True)
class FlexPrefill(Method):
    """Vertical-slash in whole blocks where pooling fails to predict a head, pooled blocks over all rows where it does.

    The number of tokens whose mass reaches gamma, counted in blocks, says how many vertical and how many slash blocks a head
    takes. A query-aware head takes the fewest of both, and the blocks of the pooled map, over all rows at once, that together
    hold gamma of it. Where our reading and the code differ: the code indexes slashes by whole blocks of offsets counted from the
    far end, so that a length off the block size shifts them; we count from the diagonal. Its own block is always kept.
    It adapts by itself; a budget replaces gamma: as many lines (as many of each kind) or pooled blocks as fit each head.
    """

    name: ClassVar[str] = "flexprefill"
    config: FlexPrefillConfig = field(default_factory=FlexPrefillConfig)

    def applies(self, context: Context) -> Applies:
        return causal_prefill(context)

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        fitting = finer(self, attention.context, budget)
        if fitting is not self:
            return fitting.estimate(attention, budget)
        c, context = self.config, attention.context
        visible = visible_blocks(context, c.block, c.block, attention.device)
        mass = last_query_mass(attention, c.block)
        rows = min(c.block, context.n)
        columns, offsets = (sum_pool(m, c.block) / rows for m in mass)
        q, k = mean_pool(attention.q, c.block), mean_pool(attention.k, c.block)
        last_q = attention.q[:, -rows:].mean(1, keepdim=True, dtype=torch.float32)
        predicted = block_product(last_q, k, context.group, attention.scaling)[:, 0].masked_fill(
            ~visible[-1], float("-inf")
        )
        aware = root_js(predicted.softmax(-1), columns) < c.tau
        # The first block column and the diagonal come first, as in the code.
        columns[:, 0] = offsets[:, 0] = float("inf")
        of_columns, of_offsets = ranks(columns), ranks(offsets)

        fewest = torch.full_like(aware, c.min_blocks, dtype=torch.long)
        sizes = block_pairs(context, c.block, attention.device)
        limit = None if budget is None else budget * context.visible_pairs
        if limit is None:
            n_columns, n_offsets = (torch.where(aware, fewest, self._blocks_for(m / rows)) for m in mass)
        else:
            most = largest_each(
                lambda m: (_line_blocks(of_columns, of_offsets, (m + 1) // 2, m // 2, visible) * sizes).sum((1, 2)),
                limit, 0, 2 * len(visible), aware,
            )  # fmt: skip
            most = torch.where(aware, most.clamp(max=2 * c.min_blocks), most)
            n_columns, n_offsets = (most + 1) // 2, most // 2
        keep = _line_blocks(of_columns, of_offsets, n_columns, n_offsets, visible)
        if aware.any():
            pooled = block_product(q, k, context.group, attention.scaling)[aware]
            pooled = pooled.masked_fill_(~visible, float("-inf")).softmax(-1)
            keep[aware] |= (
                _heaviest(pooled, pooled, c.gamma * len(visible))
                if limit is None
                else _heaviest(pooled, sizes * ~keep[aware], limit - (keep[aware] * sizes).sum((1, 2)))
            )
        notes = {
            "block": c.block,
            "query_aware": aware.tolist(),
            "vertical_blocks": n_columns.tolist(),
            "slash_blocks": n_offsets.tolist(),
        }
        pairs = (rows * context.n + visible.sum().item()) / context.visible_pairs
        return Estimate(BlockMask(keep & visible, context.n, c.block, c.block), pairs_read=pairs, notes=notes)

    def _blocks_for(self, mass: Float[Tensor, "h n"]) -> Int[Tensor, " h"]:
        """Blocks that as many tokens fill as it takes to reach gamma."""
        return (reaching(mass, self.config.gamma) // self.config.block + 1).clamp(min=self.config.min_blocks)


def reaching(mass: Float[Tensor, "h n"], share: float) -> Int[Tensor, " h"]:
    """Fewest entries, heaviest first, that together pass a share; all of them where they never do."""
    running = mass.sort(dim=-1, descending=True).values.cumsum(-1)
    return ((running <= share).sum(-1) + 1).clamp(max=mass.shape[-1])


def root_js(p: Float[Tensor, "h b"], q: Float[Tensor, "h b"]) -> Float[Tensor, " h"]:
    """Square root of the Jensen-Shannon divergence, in nats; an empty bin of either adds nothing."""
    middle = (p + q) / 2
    return (
        (0.5 * (torch.special.xlogy(p, p / middle) + torch.special.xlogy(q, q / middle)).nan_to_num().sum(-1))
        .clamp(min=0)
        .sqrt()
    )


def _line_blocks(
    columns: Int[Tensor, "h b"],
    offsets: Int[Tensor, "h b"],
    n_columns: Int[Tensor, " h"],
    n_offsets: Int[Tensor, " h"],
    visible: Bool[Tensor, "b b"],
) -> Bool[Tensor, "h b b"]:
    """Whole block columns and whole block diagonals, the first so many of each by rank."""
    at = torch.arange(len(visible), device=visible.device)
    apart = (at[:, None] - at).clamp(min=0)
    slashes = (offsets < n_offsets[:, None])[:, apart]
    return ((columns < n_columns[:, None])[:, None] | slashes | (at[:, None] == at)) & visible


def _heaviest(
    pooled: Float[Tensor, "a b b"], cost: Float[Tensor, "a b b"], limit: float | Float[Tensor, " a"]
) -> Bool[Tensor, "a b b"]:
    """Blocks of most weight over all rows at once, until what they cost together would pass a limit."""
    order = pooled.flatten(1).argsort(dim=-1, descending=True)
    spent = cost.flatten(1).gather(1, order).cumsum(-1)
    within = spent <= torch.as_tensor(limit, device=spent.device).reshape(-1, 1)
    return torch.zeros_like(pooled, dtype=torch.bool).flatten(1).scatter_(1, order, within).view(pooled.shape)


class FlexPrefillLinesConfig(Config):
    """Settings of the Sparse Frontier's version (Nawrot et al. 2025, arXiv 2504.17768), as read in its code and settings."""

    last: int = Field(default=512, ge=1)
    """Queries at the end that vote."""
    alpha: float = Field(default=0.65, gt=0, le=1)
    """Share of mass that the verticals must hold, and the slashes."""
    min_lines: int = Field(default=512, ge=1)
    """Fewest verticals and fewest slashes."""
    first: int = Field(default=4, ge=0)
    """Leading columns kept whatever their mass."""
    nearest: int = Field(default=64, ge=0)
    """Nearest diagonals kept whatever their mass."""


@final
@dataclass(frozen=True)
class FlexPrefillLines(Method):
    """FlexPrefill as the Sparse Frontier compares it: no query-aware heads, lines exact to the token, counts by mass.

    It adapts by itself; a budget replaces alpha, keeping the proportion of columns to diagonals that alpha asks for.
    """

    name: ClassVar[str] = "flexprefill_lines"
    config: FlexPrefillLinesConfig = field(default_factory=FlexPrefillLinesConfig)

    def applies(self, context: Context) -> Applies:
        return causal_prefill(context)

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        c, context = self.config, attention.context
        mass, rows = last_query_mass(attention, c.last), min(c.last, context.n)
        lines = rank_lines(mass, c.first, c.nearest)
        wanted = [reaching(m / rows, c.alpha) for m in mass]
        if budget is None:
            mask = lines.best(*(w.clamp(min=c.min_lines) for w in wanted))
        else:
            mask = lines.within(context, budget, *wanted)
        notes = {"verticals": wanted[0].tolist(), "slashes": wanted[1].tolist()}
        return Estimate(mask, pairs_read=rows * context.n / context.visible_pairs, notes=notes)
