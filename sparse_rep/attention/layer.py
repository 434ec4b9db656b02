"""`LayerAttention`: one layer's queries, keys and values on one text, and the rule by which they attend.

Letters in shapes, beyond those of codes.py:
    h  query heads     g  key-value heads (h / g queries share one)     n  positions     d, dv  widths of a key and a value
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Context:
    """What is known of a layer's attention before its queries and keys are there: enough to say whether a method applies."""

    n: int
    """Positions: the text as the model reads it, BOS included, padding left out."""
    n_heads: int
    n_kv_heads: int
    d: int
    causal: bool = True
    window: int | None = None
    """Keys that a query sees, itself included (a sliding window); None: all before it."""
    sinks: bool = False
    """Each head has a logit of its own that takes part in the softmax and carries no value (gpt-oss)."""
    softcap: float | None = None
    """Logits are softcap * tanh(logit / softcap) (Gemma 2)."""
    labels: Int[Tensor, " n"] | None = None
    """Kind of each position, e.g. 0 text and 1 image; None where there is one kind."""
    step: int | None = None
    """Step of a diffusion model; None for any other."""

    @property
    def group(self) -> int:
        """Query heads that share a key-value head."""
        return self.n_heads // self.n_kv_heads

    @property
    def visible_pairs(self) -> int:
        """(query, key) pairs of one head that the layer's own mask allows: what density is counted over."""
        if not self.causal:
            return self.n * self.n
        span = min(self.window or self.n, self.n)
        return span * (span + 1) // 2 + (self.n - span) * span


@dataclass(frozen=True)
class LayerAttention:
    """q, k and v after position encoding, in the model's dtype, for one text without padding."""

    q: Float[Tensor, "h n d"]
    k: Float[Tensor, "g n d"]
    v: Float[Tensor, "g n dv"]
    scale: float | None = None
    """Logits are q.k * scale; None means 1 / sqrt(d)."""
    causal: bool = True
    window: int | None = None
    sinks: Float[Tensor, " h"] | None = None
    softcap: float | None = None
    layer: int = 0
    labels: Int[Tensor, " n"] | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        h, n, d = self.q.shape
        g = self.k.shape[0]
        if self.k.shape != (g, n, d) or self.v.shape[:2] != (g, n) or h % g:
            raise ValueError(
                f"q {tuple(self.q.shape)} must be (h, n, d), k {tuple(self.k.shape)} (g, n, d) and "
                f"v {tuple(self.v.shape)} (g, n, dv), with h a multiple of g"
            )

    @cached_property
    def context(self) -> Context:
        h, n, d = self.q.shape
        return Context(
            n, h, len(self.k), d, self.causal, self.window, self.sinks is not None, self.softcap, self.labels, self.step
        )

    @property
    def n(self) -> int:
        return self.q.shape[1]

    @property
    def n_heads(self) -> int:
        return self.q.shape[0]

    @property
    def scaling(self) -> float:
        return 1 / math.sqrt(self.q.shape[-1]) if self.scale is None else self.scale

    @property
    def device(self) -> torch.device:
        return self.q.device

    def kv_of(self, head: int) -> int:
        """The key-value head that a query head reads."""
        return head // self.context.group

    def visible(self, lo: int, hi: int) -> Bool[Tensor, "r n"]:
        """Keys that the layer's own mask lets queries lo..hi-1 see."""
        return self.visible_to(torch.arange(lo, hi, device=self.device))

    def visible_to(self, queries: Int[Tensor, " r"]) -> Bool[Tensor, "r n"]:
        """Keys that the layer's own mask lets some queries see."""
        if not self.causal:
            return torch.ones((len(queries), self.n), dtype=torch.bool, device=self.device)
        back = queries[:, None] - torch.arange(self.n, device=self.device)
        seen = back >= 0
        return seen if self.window is None else seen & (back < self.window)

    def logits(self, head: int, lo: int, hi: int) -> Float[Tensor, "r n"]:
        """Scaled (and capped) logits of queries lo..hi-1 of a head, float32 (float64 for float64 input), -inf where masked."""
        return self.logits_of(head, torch.arange(lo, hi, device=self.device))

    def logits_of(self, head: int, queries: Int[Tensor, " r"]) -> Float[Tensor, "r n"]:
        """`logits` of any queries."""
        wide = torch.promote_types(self.q.dtype, torch.float32)
        s = (self.q[head, queries].to(wide) @ self.k[self.kv_of(head)].to(wide).T) * self.scaling
        if self.softcap is not None:
            s = self.softcap * torch.tanh(s / self.softcap)
        return s.masked_fill_(~self.visible_to(queries), float("-inf"))

    def probabilities(self, head: int, lo: int, hi: int) -> Float[Tensor, "r n"]:
        """Attention of queries lo..hi-1 of a head. Rows sum to 1, or to 1 less what the sink takes."""
        s = self.logits(head, lo, hi)
        if self.sinks is None:
            return s.softmax(-1)
        return torch.cat([s, self.sinks[head].to(s).expand(len(s), 1)], -1).softmax(-1)[:, :-1]
