"""The dense pass: what every sparse method is measured against.

Mass is always normalised over keys. Where a head has a learned sink (gpt-oss), the share that it takes is told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.attention.counts import pairs_of_blocks
from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.memory import queries_at_once
from sparse_rep.kernels.attention import LineMass, Rule, attention, block_mass, line_mass

SAMPLE = 2048
"""Queries a text of which what needs sorting is measured: all of a text as short, else at most as many, spread evenly."""
SORTED = 2**24
"""Weights of a head sorted in all: on longer texts fewer queries are sampled, but never fewer than LEAST."""
LEAST = 128


@dataclass(frozen=True)
class Dense:
    """A layer's own output, and the log-sum-exp that turns any logit into a weight: exp(logit - lse)."""

    layer: LayerAttention
    out: Float[Tensor, "h n dv"]
    lse: Float[Tensor, "h n"]
    """Over keys alone, fp32 (fp64 for fp64 input)."""
    sunk: Float[Tensor, "h n"] | None
    """Share of its attention that a query gives its head's learned sink, and so to no key; None where there is no sink."""
    _once: dict[tuple[str, int], Tensor] = field(default_factory=dict, repr=False)
    """What every mask is scored against, by name and size: computed once."""

    def map(self, block: int) -> Float[Tensor, "h b b"]:
        """Mean mass of a block of queries on each block of keys; rows sum to 1."""
        layer = self.layer
        return self._kept("map", block, lambda: block_mass(layer.q, layer.k, self.lse, rule_of(layer), block=block))

    def best_blocks(self, block: int) -> Float[Tensor, "h b b"]:
        """Most mass that 1, 2, 3, ... blocks of keys can hold of a block of queries."""
        return self._kept("best", block, lambda: self.map(block).sort(-1, descending=True).values.cumsum_(-1))

    def pairs(self, block: int) -> Float[Tensor, "b b"]:
        """Visible pairs in each square of `block`."""
        return self._kept("pairs", block, lambda: pairs_of_blocks(self.layer.context, block, self.layer.device))

    def first_keys(self, count: int) -> Float[Tensor, "h n c"]:
        """Mass of every query on the first keys."""
        return self._kept("first", count, lambda: self._first_keys(count))

    def lines(self) -> LineMass:
        """Mass by key and by distance, and entropy."""
        return line_mass(self.layer.q, self.layer.k, self.lse, rule_of(self.layer))

    def rows(self, head: int, queries: Int[Tensor, " r"]) -> Float[Tensor, "r n"]:
        """Mass of some queries of a head; rows sum to 1."""
        return (self.layer.logits_of(head, queries) - self.lse[head, queries, None]).exp_()

    def _kept(self, name: str, size: int, compute: Callable[[], Tensor]) -> Tensor:
        if (name, size) not in self._once:
            self._once[name, size] = compute()
        return self._once[name, size]

    def _first_keys(self, count: int) -> Tensor:
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
        for queries in sample(self.layer.n, self.lse.device).split(queries_at_once(self.layer.n)):
            yield queries, self.rows(head, queries).sort(-1, descending=True).values.cumsum(-1, dtype=torch.float64)


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


def sample(n: int, device: torch.device | str = "cpu") -> Int[Tensor, " r"]:
    """The sampled queries, ascending; the last query is always among them."""
    count = n if n <= SAMPLE else min(max(SORTED // n, LEAST), SAMPLE)
    return torch.linspace(0, n - 1, count, dtype=torch.float64, device=device).round().long()
