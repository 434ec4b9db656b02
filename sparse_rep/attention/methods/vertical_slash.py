"""Vertical-slash: the heaviest columns and diagonals of the last queries' attention (MInference)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, final

from pydantic import Field

from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.parts.budget import checked_budget
from sparse_rep.attention.methods.parts.last_queries import last_query_mass
from sparse_rep.attention.methods.parts.lines import rank_lines
from sparse_rep.attention.methods.parts.scope import causal_prefill
from sparse_rep.config_base import Config


class VerticalSlashConfig(Config):
    """Settings of the Sparse Frontier's version (Nawrot et al. 2025, arXiv 2504.17768), which all its comparisons use."""

    last: int = Field(default=256, ge=1)
    """Queries at the end that vote. MInference takes 64 (Jiang et al. 2024, arXiv 2407.02490, Algorithm 1)."""
    verticals: int = Field(default=512, ge=1)
    """Columns kept, the first ones among them."""
    slashes: int = Field(default=512, ge=1)
    """Diagonals kept, the nearest ones among them."""
    first: int = Field(default=4, ge=0)
    """Leading columns kept whatever their mass."""
    nearest: int = Field(default=64, ge=0)
    """Nearest diagonals kept whatever their mass."""


@final
@dataclass(frozen=True)
class VerticalSlash(Method):
    """Columns and diagonals by their share of the last queries' causal softmax, each kind by itself.

    The mask is exact to the token. Public kernels compute it in 64 x 64 blocks; `mask.blocks(64)` is what they read.
    A budget scales all four counts, in the config's proportions, to the largest that fits each head.
    """

    name: ClassVar[str] = "vertical_slash"
    config: VerticalSlashConfig = field(default_factory=VerticalSlashConfig)

    def applies(self, context: Context) -> Applies:
        return causal_prefill(context)

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        c, context = self.config, attention.context
        lines = rank_lines(last_query_mass(attention, c.last), c.first, c.nearest)
        sizes = c.verticals, c.slashes
        mask = lines.best(*sizes) if budget is None else lines.within(context, budget, *sizes)
        return Estimate(mask, pairs_read=min(c.last, context.n) * context.n / context.visible_pairs)
