"""SnapKV and Ada-SnapKV: keep the prompt's keys that its last queries attend to (Li et al. 2024, Feng et al. 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import LineMask
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.parts.blocks import per_query_head
from sparse_rep.attention.methods.parts.budget import checked_budget
from sparse_rep.attention.methods.parts.decoding import DecodingConfig, capacity_within
from sparse_rep.attention.methods.parts.last_queries import group_probabilities
from sparse_rep.attention.methods.parts.scope import causal_decode


class SnapKVConfig(DecodingConfig):
    """Settings of the Sparse Frontier's runs (Nawrot et al. 2025, arXiv 2504.17768)."""

    last: int = Field(default=256, ge=1)
    """Queries at the prompt's end that vote."""
    pool: int = Field(default=21, ge=1)
    """Neighbouring keys over which votes are averaged; odd."""
    recent: int = Field(default=128, ge=0)
    """Last keys of the prompt kept whatever their votes."""
    first: int = Field(default=4, ge=0)
    """First keys kept whatever their votes."""
    capacity: int = Field(default=1024, ge=1)
    """Keys of the prompt kept, those always kept among them."""


@final
@dataclass(frozen=True)
class SnapKV(Method):
    """Sum the last queries' attention, averaged over the heads that share keys, smooth it, keep the top of it once for all.

    SnapKV itself is arXiv 2404.14469; the group average is the Sparse Frontier's. A budget sets the capacity.
    """

    name: ClassVar[str] = "snapkv"
    config: SnapKVConfig = field(default_factory=SnapKVConfig)

    def applies(self, context: Context) -> Applies:
        return causal_decode(context)

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        capacity, prompt = _capacity(self.config, attention, budget)
        votes = torch.stack([p.mean(0).sum(0)[:prompt] for p in _windows(self.config, attention, prompt)])
        scores = _always_first(smoothed(votes, self.config.pool), self.config, capacity)
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, scores.topk(capacity, 1).indices, True)
        return _estimate(kept, attention, prompt, self.config)


class AdaSnapKVConfig(SnapKVConfig):
    """Settings of the Sparse Frontier's runs; the floor is Ada-KV's (Feng et al. 2024, arXiv 2407.11550, its safeguard)."""

    floor: float = Field(default=0.2, ge=0, le=1)
    """Share of the average capacity that every key-value head gets; the rest goes where the votes are."""


@final
@dataclass(frozen=True)
class AdaSnapKV(Method):
    """SnapKV with one capacity for all heads of a layer, handed out by votes: the most that any query of the group gave.

    A budget sets the capacity that heads have on average, so single heads may keep more than it or less.
    """

    name: ClassVar[str] = "ada_snapkv"
    config: AdaSnapKVConfig = field(default_factory=AdaSnapKVConfig)

    def applies(self, context: Context) -> Applies:
        return causal_decode(context)

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        c = self.config
        capacity, prompt = _capacity(c, attention, budget)
        votes = torch.stack([p.amax((0, 1))[:prompt] for p in _windows(c, attention, prompt)])
        scores = _always_first(smoothed(votes, c.pool), c, capacity)
        floor = min(max(int(capacity * c.floor), int(scores.isinf().sum(1).max())), capacity)
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, scores.topk(floor, 1).indices, True)
        rest = scores.masked_fill(kept, float("-inf")).flatten().topk((capacity - floor) * len(scores)).indices
        kept.view(-1)[rest] = True
        return _estimate(kept, attention, prompt, c)


def smoothed(votes: Float[Tensor, "g n"], width: int) -> Float[Tensor, "g n"]:
    """Mean over a window of keys; beyond the ends there are zeros, as in the public code."""
    return F.avg_pool1d(votes[:, None], width, stride=1, padding=width // 2)[:, 0, : votes.shape[1]]


def _capacity(config: SnapKVConfig, attention: LayerAttention, budget: float | None) -> tuple[int, int]:
    prompt = config.first_answer(attention.n)
    if budget is None:
        return min(config.capacity, prompt), prompt
    return capacity_within(attention.context, prompt, budget), prompt


def _windows(config: SnapKVConfig, attention: LayerAttention, prompt: int) -> list[Float[Tensor, "m r n"]]:
    lo = max(prompt - config.last, 0)
    return [group_probabilities(attention, kv, lo, prompt) for kv in range(attention.context.n_kv_heads)]


def _always_first(scores: Float[Tensor, "g p"], config: SnapKVConfig, capacity: int) -> Float[Tensor, "g p"]:
    """Lift the first keys and the most recent ones above all votes; with less capacity than the config's, as many fewer."""
    scores, share = scores.clone(), min(capacity / config.capacity, 1.0)
    first, recent = math.ceil(config.first * share), math.ceil(config.recent * share)
    scores[:, scores.shape[1] - recent :] = float("inf")
    scores[:, :first] = float("inf")
    return scores


def _estimate(kept: Bool[Tensor, "g p"], attention: LayerAttention, prompt: int, config: SnapKVConfig) -> Estimate:
    context = attention.context
    columns = F.pad(kept, (0, context.n - prompt), value=True)
    columns = per_query_head(columns, context.group)
    return Estimate(
        LineMask(columns, torch.zeros_like(columns)),
        first_row=prompt,
        pairs_read=min(config.last, prompt) * prompt / context.visible_pairs,
        notes={"prompt": prompt, "kept": kept.sum(1).tolist()},
    )
