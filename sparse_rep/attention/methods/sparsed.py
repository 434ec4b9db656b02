"""SparseD: a diffusion model's blocks, chosen once after its first steps and reused in all later ones (arXiv 2509.24014)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from sparse_rep.attention.dense import rule_of
from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import BlockMask
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.parts.blocks import finer
from sparse_rep.attention.methods.parts.budget import checked_budget
from sparse_rep.config_base import Config
from sparse_rep.kernels.attention import block_mass, log_sum_exp


class SparseDConfig(Config):
    """Settings of the official README for long prompts; short ones take block 32 and select 0.5."""

    block: int = Field(default=128, ge=1)
    """Positions a block."""
    select: float = Field(default=0.3, gt=0, le=1)
    """Share of the key blocks that a query block keeps, of the prompt's and of the generated ones apart."""
    skip: float = Field(default=0.2, ge=0, le=1)
    """Share of the steps, at the start, that attend to everything."""
    steps: int = Field(default=128, ge=1)
    """Denoising steps in all; the model's own affair, 128 where nothing else is known."""


@final
@dataclass(frozen=True)
class SparseD(Method):
    """Mean attention of every block; the best share of the prompt's key blocks and of the generated ones, in every row of blocks.

    As in the code, the number kept of b blocks is int(b * select) + 1. Position kinds (`labels`) tell prompt from generated;
    without them all positions are one kind. Early steps keep everything. A budget sets `select`. The claim behind the method is
    that one step's mask serves the later ones: `reused` and `overlap` measure it.
    """

    name: ClassVar[str] = "sparsed"
    config: SparseDConfig = field(default_factory=SparseDConfig)

    def applies(self, context: Context) -> Applies:
        if context.causal or context.step is None:
            return Applies("n/a", "wants the denoising steps of a diffusion model, whose attention is bidirectional")
        return Applies("prefill")

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        fitting = finer(self, attention.context, budget)
        if fitting is not self:
            return fitting.estimate(attention, budget)
        c, context = self.config, attention.context
        b = -(-context.n // c.block)
        if self.early(context):
            everything = torch.ones((context.n_heads, b, b), dtype=torch.bool, device=attention.device)
            return Estimate(BlockMask(everything, context.n, c.block, c.block), notes={"early": True})
        rule = rule_of(attention)
        lse = log_sum_exp(attention.q, attention.k, rule)
        mass = block_mass(attention.q, attention.k, lse, rule, block=c.block)
        keep = torch.zeros_like(mass, dtype=torch.bool)
        for kind in self._kinds(attention):
            held = int(kind.sum())
            top = min(int(held * c.select) + 1, held) if budget is None else max(int(held * budget), 1)
            best = mass.masked_fill(~kind, -1.0).topk(top, -1).indices
            keep |= torch.zeros_like(keep).scatter_(-1, best, True)
        return Estimate(BlockMask(keep, context.n, c.block, c.block), pairs_read=1.0, notes={"early": False})

    def early(self, context: Context) -> bool:
        """Whether the context's step is one of those that attend to everything."""
        assert context.step is not None
        return context.step < self.config.skip * self.config.steps

    def _kinds(self, attention: LayerAttention) -> list[Bool[Tensor, " b"]]:
        """Key blocks of each kind of position; a block of two kinds is of both."""
        if attention.labels is None:
            return [torch.ones(-(-attention.n // self.config.block), dtype=torch.bool, device=attention.device)]
        kinds = []
        for label in attention.labels.unique():
            at = (attention.labels == label).nonzero()[:, 0] // self.config.block
            kind = torch.zeros(-(-attention.n // self.config.block), dtype=torch.bool, device=attention.device)
            kind[at] = True
            kinds.append(kind)
        return kinds


def reused(method: SparseD, steps: Iterable[LayerAttention], budget: float | None = None) -> list[Estimate]:
    """What SparseD uses at each step: everything at first, then the first mask that it chose."""
    used: list[Estimate] = []
    chosen: Estimate | None = None
    for attention in steps:
        if chosen is None:
            estimate = method.estimate(attention, budget)
            chosen = None if method.early(attention.context) else estimate
            used.append(estimate)
        else:
            used.append(chosen)
    return used


def overlap(a: BlockMask, b: BlockMask) -> Float[Tensor, " h"]:
    """Kept blocks that two masks share, over those that either keeps: how far one step's mask is another's."""
    both, either = (a.keep & b.keep).sum((1, 2)), (a.keep | b.keep).sum((1, 2))
    return both / either
