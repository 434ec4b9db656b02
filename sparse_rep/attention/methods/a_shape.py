"""A-shape: the first keys and a local window, as StreamingLLM keeps them (Xiao et al. 2024, arXiv 2309.17453)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from pydantic import Field

from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import LineMask
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.parts.budget import checked_budget
from sparse_rep.attention.methods.parts.lines import RankedLines
from sparse_rep.attention.methods.parts.scope import causal_prefill
from sparse_rep.config_base import Config


class AShapeConfig(Config):
    """Sizes of the A-shape candidate in MInference's search (Jiang et al. 2024, arXiv 2407.02490, its `a_shape` head type)."""

    sink: int = Field(default=100, ge=1)
    """First keys, kept for every query. StreamingLLM itself (section 3.2) finds that 4 are enough."""
    window: int = Field(default=800, ge=1)
    """Last keys before a query, itself included."""


@final
@dataclass(frozen=True)
class AShape(Method):
    """Keep key j for query i where j < sink or i - j < window. A budget scales both, in the config's proportion."""

    name: ClassVar[str] = "a_shape"
    config: AShapeConfig = field(default_factory=AShapeConfig)

    def applies(self, context: Context) -> Applies:
        return causal_prefill(context)

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        return Estimate(self._mask(attention, budget))

    def _mask(self, attention: LayerAttention, budget: float | None) -> LineMask:
        h, n = attention.n_heads, attention.n
        nearest = torch.arange(n, device=attention.device).expand(h, n)
        lines = RankedLines(nearest, nearest)
        if budget is not None:
            return lines.within(attention.context, budget, self.config.sink, self.config.window)
        return lines.best(self.config.sink, self.config.window)
