"""Quest: every query picks the pages of keys that could hold its largest logits (Tang et al. 2024, arXiv 2406.10774)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import StreamedMask
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.parts.budget import checked_budget, keys_seen, largest
from sparse_rep.attention.methods.parts.decoding import DecodingConfig
from sparse_rep.attention.methods.parts.scope import causal_decode


class QuestConfig(DecodingConfig):
    """Pages as in the paper; 1024 tokens are one of the budgets that it and the Sparse Frontier report."""

    page: int = Field(default=16, ge=1)
    """Keys a page."""
    tokens: int = Field(default=1024, ge=1)
    """Keys read a query, in whole pages, the current page apart."""


@final
@dataclass(frozen=True)
class Quest(Method):
    """Bound q.k over a page by its keys' smallest and largest coordinates; read the pages of highest bound, and the current one.

    Pages belong to a key-value head; the choice among them is each query head's own, as in the Sparse Frontier's code
    (arXiv 2504.17768). Pages still to come are never chosen. A budget sets the number of pages.
    """

    name: ClassVar[str] = "quest"
    config: QuestConfig = field(default_factory=QuestConfig)

    def applies(self, context: Context) -> Applies:
        return causal_decode(context)

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        c, context = self.config, attention.context
        prompt = c.first_answer(context.n)
        pages = max(c.tokens // c.page, 1) if budget is None else self._pages_within(context, prompt, budget)
        low, high = page_bounds(attention.k.float(), c.page)

        def keep(head: int, lo: int, hi: int) -> Bool[Tensor, "r n"]:
            kv = attention.kv_of(head)
            bound = upper_bound(attention.q[head, lo:hi].float(), low[kv], high[kv])
            current = torch.arange(lo, hi, device=bound.device)[:, None] // c.page
            page = torch.arange(bound.shape[1], device=bound.device)
            bound = bound.masked_fill(page >= current, float("-inf"))
            chosen = torch.zeros_like(bound, dtype=torch.bool)
            chosen.scatter_(1, bound.topk(min(pages, len(page)), 1).indices, True)
            chosen = (chosen & (page < current)) | (page == current)
            return chosen.repeat_interleave(c.page, 1)[:, : context.n]

        mask = StreamedMask(attention.n_heads, context.n, keep)
        return Estimate(mask, first_row=prompt, pairs_read=1 / c.page, notes={"prompt": prompt, "pages": pages})

    def _pages_within(self, context: Context, prompt: int, budget: float) -> int:
        seen = keys_seen(context, prompt)
        current = torch.arange(prompt, context.n) % self.config.page + 1
        return largest(
            lambda pages: (current + pages * self.config.page).clamp(max=seen).sum().item(),
            budget * seen.sum().item(),
            1,
            -(-context.n // self.config.page),
        )


def page_bounds(k: Float[Tensor, "g n d"], page: int) -> tuple[Float[Tensor, "g b d"], Float[Tensor, "g b d"]]:
    """Smallest and largest value of each coordinate over each page of keys; a last, shorter page over what it has."""
    b = -(-k.shape[1] // page)
    missing = b * page - k.shape[1]
    low, high = (F.pad(k, (0, 0, 0, missing), value=v).unflatten(1, (b, page)) for v in (float("inf"), float("-inf")))
    return low.amin(2), high.amax(2)


def upper_bound(q: Float[Tensor, "r d"], low: Float[Tensor, "b d"], high: Float[Tensor, "b d"]) -> Float[Tensor, "r b"]:
    """sum_d max(q_d low_d, q_d high_d): no key of the page has a larger q.k."""
    return q.clamp(min=0) @ high.T + q.clamp(max=0) @ low.T
