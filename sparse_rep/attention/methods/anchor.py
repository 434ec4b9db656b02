"""AnchorAttention: key columns whose logits come near the largest that the sink and the neighbourhood give (EMNLP 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import BlockMask
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.parts.blocks import block_pairs, finer, mean_pool
from sparse_rep.attention.methods.parts.budget import checked_budget
from sparse_rep.attention.methods.parts.scope import causal_prefill
from sparse_rep.config_base import Config


class AnchorConfig(Config):
    """Settings of the paper (2025, arXiv 2505.23520), as read in public implementations."""

    block: int = Field(default=128, ge=1)
    """Positions a block: how many queries are pooled into one."""
    step: int = Field(default=16, ge=1)
    """Query blocks that share their columns; their own positions are the local part of the anchor."""
    initial: int = Field(default=1, ge=1)
    """First key blocks, the other part of the anchor."""
    theta: float = 12.0
    """How far below the anchor a column's logit may lie, in powers of two. Smaller keeps less."""


@final
@dataclass(frozen=True)
class Anchor(Method):
    """Keep the anchor region, and every earlier key j with qbar . k_j + theta >= mbar for some pooled query of the group.

    qbar averages the queries of a block and mbar their anchors, the largest logit that each has on the anchor region; logits are
    in powers of two. Columns are exact to the token. Where our reading and a public implementation differ: that one takes
    `initial * step` blocks as the first keys and never looks at the last block before a group; we look at all of them.
    It adapts by itself; a budget shortens the group until the anchor takes at most half of it, then replaces theta, head by head,
    by the value that spends the rest.
    """

    name: ClassVar[str] = "anchor"
    config: AnchorConfig = field(default_factory=AnchorConfig)

    def applies(self, context: Context) -> Applies:
        return causal_prefill(context)

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        fitting = finer(self, attention.context, budget)
        if fitting is not self:
            return fitting.estimate(attention, budget)
        c, context = self.config, attention.context
        sizes = block_pairs(context, c.block, attention.device)
        step = c.step if budget is None else self._step_within(context, sizes, budget)
        region = self._region(len(sizes), step, attention.device)
        excess = _excess(attention, c, step)
        if budget is None:
            theta = torch.full((context.n_heads,), c.theta, device=attention.device)
        else:
            room = budget * context.visible_pairs - (sizes * region).sum().item()
            theta = _theta_for(excess, _stripe_pairs(context, step * c.block, attention.device), room)
        columns = (excess >= -theta[:, None, None]) & (excess > float("-inf"))
        columns |= self._anchor(context, step, attention.device)
        mask = BlockMask(columns, context.n, step * c.block, 1)
        read = (sizes * region).sum().item() + context.visible_pairs / c.block
        return Estimate(
            mask,
            pairs_read=read / context.visible_pairs,
            notes={"block": c.block, "step": step, "theta": theta.tolist()},
        )

    def _region(self, b: int, step: int, device: torch.device) -> Bool[Tensor, "b b"]:
        """Blocks of the anchor: the first ones, and a group's own up to the query."""
        at = torch.arange(b, device=device)
        below = at[:, None] >= at
        return below & ((at < self.config.initial) | (at[:, None] // step == at // step))

    def _anchor(self, context: Context, step: int, device: torch.device) -> Bool[Tensor, "e n"]:
        """The anchor as columns of each group: causality cuts a group's own to what lies up to the query."""
        rows, key = step * self.config.block, torch.arange(context.n, device=device)
        group = torch.arange(-(-context.n // rows), device=device)[:, None]
        return (key < self.config.initial * self.config.block) | (key // rows == group)

    def _step_within(self, context: Context, sizes: Tensor, budget: float) -> int:
        step = self.config.step
        while (
            step > 1
            and (sizes * self._region(len(sizes), step, sizes.device)).sum().item() > budget / 2 * context.visible_pairs
        ):
            step //= 2
        return step


def _excess(attention: LayerAttention, config: AnchorConfig, step: int) -> Float[Tensor, "h e n"]:
    """Largest qbar . k_j - mbar over the pooled queries of each of e groups, in powers of two; -inf for keys of the anchor on."""
    context, rows, first = attention.context, step * config.block, config.initial * config.block
    h, n, group = context.n_heads, context.n, context.group
    groups = -(-n // rows)
    pooled = mean_pool(attention.q, config.block)
    keys = attention.k.float()
    out = torch.full((h, groups, n), float("-inf"), device=attention.device)
    for e in range(groups):
        lo, hi = e * rows, min((e + 1) * rows, n)
        if lo <= first:
            continue
        anchors = mean_pool(_anchors(attention, lo, hi, first)[..., None], config.block)[..., 0]
        q = pooled[:, e * step : e * step + anchors.shape[1]].unflatten(0, (-1, group)).flatten(1, 2)
        s = _powers_of_two(attention, q @ keys[:, first:lo].mT).unflatten(1, (group, -1)).flatten(0, 1)
        out[:, e, first:lo] = (s - anchors[..., None]).amax(1)
    return out


def _anchors(attention: LayerAttention, lo: int, hi: int, first: int) -> Float[Tensor, "h r"]:
    """Largest logit of queries lo..hi-1 on the first keys and on their own group up to themselves, in powers of two."""
    group, window = attention.context.group, attention.window or attention.n
    q = attention.q[:, lo:hi].unflatten(0, (-1, group)).flatten(1, 2)
    query = torch.arange(lo, hi, device=q.device)[:, None]
    best = torch.full((attention.n_heads, hi - lo), float("-inf"), device=q.device)
    for start, stop in ((lo, hi), (0, first)):
        back = query - torch.arange(start, stop, device=q.device)
        s = (
            _powers_of_two(attention, (q @ attention.k[:, start:stop].mT).float())
            .unflatten(1, (group, -1))
            .flatten(0, 1)
        )
        best = torch.maximum(best, s.masked_fill_((back < 0) | (back >= window), float("-inf")).amax(-1))
    return best


def _powers_of_two(attention: LayerAttention, products: Tensor) -> Tensor:
    s = products * attention.scaling
    if attention.softcap is not None:
        s = attention.softcap * torch.tanh(s / attention.softcap)
    return s * math.log2(math.e)


def _stripe_pairs(context: Context, rows: int, device: torch.device) -> Float[Tensor, "e n"]:
    """Visible pairs of each earlier key with the queries of each group."""
    lo = torch.arange(0, context.n, rows, device=device)[:, None]
    last = (torch.arange(context.n, device=device) + (context.window or context.n)).minimum(
        (lo + rows).clamp(max=context.n)
    )
    return (last - lo).clamp(min=0).float()


def _theta_for(excess: Float[Tensor, "h e n"], pairs: Float[Tensor, "e n"], room: float) -> Float[Tensor, " h"]:
    """The theta, head by head, that keeps the stripes of most excess within so many pairs."""
    thetas = []
    for head in excess:
        ranked, order = head.flatten().sort(descending=True)
        spent = torch.where(ranked > float("-inf"), pairs.flatten()[order], float("inf")).cumsum(0, dtype=torch.float64)
        count = (spent <= room).sum()
        thetas.append(torch.where(count > 0, -ranked[(count - 1).clamp(min=0)], float("-inf")))
    return torch.stack(thetas)
