"""MoA: each head gets the span that the loss asks for (Fu et al. 2024, arXiv 2406.14909; code thu-nics/MoA, MIT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import BlockMask
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.parts.blocks import block_pairs, finer, sum_pool, visible_blocks
from sparse_rep.attention.methods.parts.budget import checked_budget
from sparse_rep.config_base import Config
from sparse_rep.errors import ConfigError

Span = tuple[float, float]
"""(alpha, beta): a head sees its last alpha + beta * n keys in a text of n tokens."""


class MoAConfig(Config):
    """Settings of the paper, and the spans that a calibration found."""

    block: int = Field(default=64, ge=1)
    """Positions a block; the first block is always kept, as the sink."""
    spans: tuple[tuple[Span, ...], ...] = ()
    """(alpha, beta) of every head of every layer, by `calibrate` on a model or `choose_spans` on influences."""


@final
@dataclass(frozen=True)
class MoA(Method):
    """The first block and a band of a head's own width. A budget scales all spans of a layer by one factor.

    So heads keep their ranking, and the layer's mean, not each head, meets the budget.
    """

    name: ClassVar[str] = "moa"
    config: MoAConfig = field(default_factory=MoAConfig)

    def applies(self, context: Context) -> Applies:
        if not context.causal:
            return Applies("n/a", "defined for causal attention; this layer is bidirectional")
        if not self.config.spans:
            return Applies("n/a", "wants each head's span, calibrated by the loss on this model first")
        if any(len(layer) != context.n_heads for layer in self.config.spans):
            return Applies("n/a", f"its spans are of another model: this layer has {context.n_heads} heads")
        return Applies("prefill")

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        fitting = finer(self, attention.context, budget)
        if fitting is not self:
            return fitting.estimate(attention, budget)
        context, block = attention.context, self.config.block
        spans = torch.tensor(self.config.spans[attention.layer], dtype=torch.float64)
        widths = spans[:, 0] + spans[:, 1] * context.n
        if budget is not None:
            widths = _scaled(widths, context, block, budget)
        keep = bands(widths, context, block)
        return Estimate(
            BlockMask(keep.to(attention.device), context.n, block, block),
            notes={"block": block, "spans": widths.round().tolist()},
        )


def bands(widths: Float[Tensor, " h"], context: Context, block: int) -> Bool[Tensor, "h b b"]:
    """The first block, and blocks whose nearest pair lies within a head's width."""
    b = -(-context.n // block)
    at = torch.arange(b)
    apart = at[:, None] - at
    nearest = (apart * block - (block - 1)).clamp(min=0)
    return ((nearest < widths[:, None, None]) | (at == 0)) & visible_blocks(context, block, block)


def _scaled(widths: Tensor, context: Context, block: int, budget: float) -> Tensor:
    """Widths times the largest factor at which the mean density of the heads is within a budget."""
    pairs, low, high = block_pairs(context, block), 0.0, context.n / widths.clamp(min=1).min().item()
    limit = budget * context.visible_pairs * len(widths)
    for _ in range(40):
        middle = (low + high) / 2
        within = (bands(widths * middle, context, block) * pairs).sum().item() <= limit
        low, high = (middle, high) if within else (low, middle)
    return widths * (high if budget == 1 else low)


def influence(
    attention: LayerAttention, gradient: Float[Tensor, "h n dv"], block: int, magnitude: bool = False
) -> Float[Tensor, "h b b"]:
    """What the loss gains, to first order in the head's output, when single pairs are masked, summed over blocks.

    E_ij = -A_ij (g_ij - sum_l A_il g_il) / (1 - A_ij), with g = dL/dA = dL/dO V^T: masking a pair takes its share away and
    renormalises the row. A row with one key has nothing to renormalise: there E = -A g. A strip of rows at a time.

    Args:
        attention: one layer on one text.
        gradient: of the loss in the head's output, before the output projection.
        block: positions a block.
        magnitude: sum |E| instead.
    """
    rows, eps = [], 1e-6
    for head in range(attention.n_heads):
        v = attention.v[attention.kv_of(head)].float()
        strips = []
        for lo in range(0, attention.n, block):
            hi = min(lo + block, attention.n)
            a = attention.probabilities(head, lo, hi).float()
            g = gradient[head, lo:hi].float() @ v.T
            centred = g - (a * g).sum(-1, keepdim=True)
            e = -a * centred / (1 - a).clamp(min=eps)
            alone = attention.visible(lo, hi).sum(-1, keepdim=True) == 1
            e = torch.where(alone, -a * g, e)
            strips.append(sum_pool((e.abs() if magnitude else e).sum(0), block))
        rows.append(torch.stack(strips))
    return torch.stack(rows)


def choose_spans(
    influences: Mapping[int, Float[Tensor, "h b b"]], block: int, density: float, candidates: Sequence[Span]
) -> list[Span]:
    """A span a head that loses least, their mean density within `density` at every length.

    From the narrowest candidate up, always the widening that saves most loss for the pairs it costs. The paper solves a mixed
    integer programme over the same choices.

    Args:
        influences: from `influence`, by text length; heads of any number of layers, one after another.
        block: positions a block.
        density: share of causal pairs, on average over the heads.
        candidates: (alpha, beta) to choose among.

    Raises ConfigError where even the narrowest candidate keeps more than `density`.
    """
    lost, held = [], []
    for n, e in influences.items():
        context = Context(n, 1, 1, 1)
        kept = torch.stack([bands(torch.tensor([a + b * n]), context, block)[0] for a, b in candidates])
        seen = visible_blocks(context, block, block)
        lost.append(torch.einsum("hij,cij->hc", e.double().cpu(), (seen & ~kept).double()))
        held.append((kept * block_pairs(context, block)).sum((1, 2)) / context.visible_pairs)
    loss, cost = torch.stack(lost).sum(0), torch.stack(held)
    order = cost.mean(0).argsort(stable=True)
    loss, cost = loss[:, order], cost[:, order]
    heads = len(loss)
    now = torch.zeros(heads, dtype=torch.long)
    if cost[:, 0].max() > density:
        short = list(influences)[int(cost[:, 0].argmax())]
        raise ConfigError(
            f"the narrowest span keeps {cost[:, 0].max():.0%} of the pairs of {short} tokens, more than {density:.0%}: "
            "calibrate on longer texts, or allow more"
        )
    while True:
        spent = cost[:, now].sum(1)
        gain = loss.gather(1, now[:, None]) - loss
        more = cost.mean(0)[None] - cost.mean(0)[now][:, None]
        room = (spent[:, None, None] + cost[:, None] - cost[:, now][:, :, None] <= density * heads + 1e-9).all(0)
        rate = torch.where((more > 0) & (gain > 0) & room, gain / more.clamp(min=1e-12), 0.0)
        if rate.max() <= 0:
            return [candidates[int(order[i])] for i in now]
        head, candidate = divmod(int(rate.argmax()), len(candidates))
        now[head] = candidate
