"""The dense pass: what every sparse method is measured against.

Mass is always normalised over keys. Where a head has a learned sink (gpt-oss), the share that it takes is told apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.memory import queries_at_once
from sparse_rep.kernels.attention import LineMass, Rule, attention, block_mass, line_mass

SAMPLE = 2048
"""Queries a text of which what needs sorting is measured: all of a shorter text, else this many, spread evenly."""
RUN = 16
"""Consecutive queries of that sample."""


@dataclass(frozen=True)
class Dense:
    """A layer's own output, and the log-sum-exp that turns any logit into a weight: exp(logit - lse)."""

    layer: LayerAttention
    out: Float[Tensor, "h n dv"]
    lse: Float[Tensor, "h n"]
    """Over keys alone, fp32 (fp64 for fp64 input)."""
    sunk: Float[Tensor, "h n"] | None
    """Share of its attention that a query gives its head's learned sink, and so to no key; None where there is no sink."""
    _maps: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def map(self, block: int) -> Float[Tensor, "h b b"]:
        """Mean mass of a block of queries on each block of keys; rows sum to 1. Computed once."""
        if block not in self._maps:
            self._maps[block] = block_mass(self.layer.q, self.layer.k, self.lse, rule_of(self.layer), block=block)
        return self._maps[block]

    def lines(self) -> LineMass:
        """Mass by key and by distance, and entropy."""
        return line_mass(self.layer.q, self.layer.k, self.lse, rule_of(self.layer))

    def rows(self, head: int, lo: int, hi: int) -> Float[Tensor, "r n"]:
        """Mass of queries lo..hi-1 of a head; rows sum to 1."""
        return (self.layer.logits(head, lo, hi) - self.lse[head, lo:hi, None]).exp_()

    def first_keys(self, count: int) -> Float[Tensor, "h n c"]:
        """Mass of every query on the first keys."""
        layer, count = self.layer, min(count, self.layer.n)
        first = layer.k[:, :count].repeat_interleave(layer.context.group, 0).to(self.lse)
        s = (layer.q.to(self.lse) @ first.mT) * layer.scaling
        if layer.softcap is not None:
            s = layer.softcap * torch.tanh(s / layer.softcap)
        back = torch.arange(layer.n, device=s.device)[:, None] - torch.arange(count, device=s.device)
        hidden = (back < 0) if layer.causal else torch.zeros_like(back, dtype=torch.bool)
        if layer.window is not None:
            hidden = hidden | (back >= layer.window)
        return (s.masked_fill_(hidden, float("-inf")) - self.lse[..., None]).exp_()

    def sorted_rows(self, head: int) -> Iterator[tuple[Int[Tensor, " r"], Float[Tensor, "r n"]]]:
        """Sampled queries of a head, and the most mass that 1, 2, 3, ... keys can hold, in fp64 sums."""
        for runs in sample(self.layer.n):
            parts = [self.rows(head, lo, hi) for lo, hi in runs]
            queries = torch.cat([torch.arange(lo, hi, device=self.lse.device) for lo, hi in runs])
            yield queries, torch.cat(parts).sort(-1, descending=True).values.cumsum(-1, dtype=torch.float64)


def rule_of(layer: LayerAttention) -> Rule:
    return Rule(layer.scaling, layer.causal, layer.window, layer.softcap)


def dense(layer: LayerAttention) -> Dense:
    """Exact, with nothing of size n^2."""
    out, lse = attention(layer.q, layer.k, layer.v, rule_of(layer))
    if layer.sinks is None:
        return Dense(layer, out, lse, None)
    sunk = sunk_share(layer, lse)
    return Dense(layer, (out * (1 - sunk)[..., None]).to(out.dtype), lse, sunk)


def sunk_share(layer: LayerAttention, lse: Float[Tensor, "h n"]) -> Float[Tensor, "h n"]:
    """What the learned sinks take beside keys whose log-sum-exp is `lse`."""
    assert layer.sinks is not None
    return torch.sigmoid(layer.sinks.to(lse)[:, None] - lse)


def sample(n: int) -> list[list[tuple[int, int]]]:
    """The sampled queries as runs (lo, hi), in groups that are sorted at once; the last query is always among them."""
    if n <= SAMPLE:
        size = queries_at_once(n)
        return [[(lo, min(lo + size, n))] for lo in range(0, n, size)]
    count = SAMPLE // RUN
    starts = [round(i * (n - RUN) / (count - 1)) for i in range(count)]
    together = max(queries_at_once(n) // RUN, 1)
    return [[(lo, lo + RUN) for lo in starts[i : i + together]] for i in range(0, count, together)]
