"""HyperAttention: sort by a hash, attend in sorted blocks, estimate the rest by sampling (Han et al. 2024, arXiv 2310.05869)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from sparse_rep.attention.dense import rule_of
from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import StreamedMask
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.parts.budget import checked_budget, largest
from sparse_rep.config_base import Config
from sparse_rep.kernels.attention import attention as exact_attention


class HyperConfig(Config):
    """Settings of the official code (insuhan/hyper-attn, Apache-2.0)."""

    planes: int = Field(default=7, ge=1, le=30)
    """Random hyperplanes of the hash."""
    block: int = Field(default=256, ge=1)
    """Sorted positions that attend to each other."""
    samples: int = Field(default=256, ge=0)
    """Keys drawn for the estimate, for each head and part, the same for all its queries."""
    exact: int = Field(default=4096, ge=1)
    """Stretches up to this long attend exactly."""
    seed: int = 0
    """Of the hyperplanes and the draw."""


@final
@dataclass(frozen=True)
class Hyper(Method):
    """Halve the text until a stretch is short enough to be exact; between its halves attend by sorted blocks and samples.

    The mask holds the exact stretches and the sorted blocks. What the samples add is no mask: it is in `output`, where a drawn
    key stands for all of its part (n / samples of them) unless it is already in the query's block. Where our reading and the
    code differ: the code reads the Gray code of its buckets the wrong way round, so that neighbours may differ in several bits;
    ours differ in one. A budget halves further until exact stretches take at most half of it, spends the rest on blocks, and
    draws no more samples than a block has keys; they are counted in `pairs_read`, not in the mask.
    """

    name: ClassVar[str] = "hyper"
    config: HyperConfig = field(default_factory=HyperConfig)

    def applies(self, context: Context) -> Applies:
        if not context.causal:
            return Applies("n/a", "halved for causal attention here; this layer is bidirectional")
        if context.window is not None and context.window < context.n:
            return Applies("n/a", "sorts keys from all distances; this layer sees a sliding window")
        if context.sinks:
            return Applies("n/a", "merges parts by their own sums; this layer's sinks take part in them")
        return Applies("prefill")

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        c, n = self.config, attention.n
        exact, block = (c.exact, c.block) if budget is None else self._sizes(n, budget)
        most = c.samples if budget is None else min(c.samples, block)
        draw = torch.Generator().manual_seed(c.seed + 7919 * attention.layer)
        planes = torch.randn((attention.q.shape[-1], c.planes), generator=draw).to(attention.device)
        out, lse = _exact_stretches(attention, exact)
        parts, sampled = [], 0
        for lo, mid, hi in halvings(n, exact):
            part = Part(lo, mid, hi, *_sorted_blocks(attention, lo, mid, hi, planes, block))
            parts.append(part)
            samples = _drawn(attention.n_heads, mid - lo, most, draw).to(attention.device)
            sampled += samples.shape[1] * (hi - mid)
            for head in range(attention.n_heads):
                more, weight = _part_output(attention, part, samples[head], head, block)
                _merge(out, lse, more, weight, head, mid, hi)
        ends = torch.tensor(stretches(n, exact), device=attention.device)

        def keep(head: int, lo: int, hi: int) -> Bool[Tensor, "r n"]:
            stretch = torch.searchsorted(ends, torch.arange(n, device=ends.device), right=True)
            rows = stretch[lo:hi, None] == stretch
            for part in parts:
                first, last = max(lo, part.mid), min(hi, part.hi)
                if first < last:
                    own = part.of_query[head, first - part.mid : last - part.mid, None]
                    rows[first - lo : last - lo, part.lo : part.mid] = own == part.of_key[head]
            return rows

        visible = attention.context.visible_pairs
        notes = {"exact": exact, "block": block, "sampled_share": sampled / visible}
        mask = StreamedMask(attention.n_heads, n, keep)
        return Estimate(mask, out.to(attention.q.dtype), pairs_read=sampled / visible, notes=notes)

    def _sizes(self, n: int, budget: float) -> tuple[int, int]:
        """(longest exact stretch, block): the first within half of the budget, the second within what is left."""
        limit, exact = budget * n * (n + 1) / 2, n
        while exact > 1 and _exact_pairs(n, exact) > limit / 2:
            exact = -(-exact // 2)
        rest = limit - _exact_pairs(n, exact)
        parts = list(halvings(n, exact))
        return exact, largest(lambda b: sum((hi - mid) * min(b, mid - lo) for lo, mid, hi in parts), rest, 1, n)


class Part(NamedTuple):
    """Queries mid..hi-1 against keys lo..mid-1, each in the block that its hash sorts it into."""

    lo: int
    mid: int
    hi: int
    of_query: Int[Tensor, "h a"]
    of_key: Int[Tensor, "h b"]


def halvings(n: int, exact: int, start: int = 0) -> Iterator[tuple[int, int, int]]:
    """(lo, mid, hi) of every stretch that is longer than `exact` and so is cut in two."""
    if n > exact:
        mid = n // 2
        yield start, start + mid, start + n
        yield from halvings(mid, exact, start)
        yield from halvings(n - mid, exact, start + mid)


def stretches(n: int, exact: int, start: int = 0) -> list[int]:
    """Ends of the stretches that attend exactly."""
    if n <= exact:
        return [start + n]
    return stretches(n // 2, exact, start) + stretches(n - n // 2, exact, start + n // 2)


def gray_rank(bits: Bool[Tensor, "... r"]) -> Tensor:
    """Place of a bit pattern in an order in which neighbours differ in one bit (the inverse of the reflected Gray code)."""
    running = bits.long().cumsum(-1) % 2
    return (running * 2 ** torch.arange(bits.shape[-1] - 1, -1, -1, device=bits.device)).sum(-1)


def _exact_pairs(n: int, exact: int) -> int:
    if n <= exact:
        return n * (n + 1) // 2
    return _exact_pairs(n // 2, exact) + _exact_pairs(n - n // 2, exact)


def _exact_stretches(attention: LayerAttention, exact: int) -> tuple[Tensor, Tensor]:
    outs, lses, lo = [], [], 0
    for hi in stretches(attention.n, exact):
        q, k, v = (x[:, lo:hi] for x in (attention.q, attention.k, attention.v))
        out, lse = exact_attention(q, k, v, rule_of(attention))
        outs.append(out.float())
        lses.append(lse.float())
        lo = hi
    return torch.cat(outs, 1), torch.cat(lses, 1)


def _sorted_blocks(
    attention: LayerAttention, lo: int, mid: int, hi: int, planes: Float[Tensor, "d r"], block: int
) -> tuple[Int[Tensor, "h a"], Int[Tensor, "h b"]]:
    """Block of each query and of each key, both sorted by hash. A last query block without keys joins the one before."""
    q, k = attention.q[:, mid:hi].float(), attention.k[:, lo:mid].float()
    of_query, of_key = (_place(gray_rank(x @ planes > 0)) // block for x in (q, k))
    return of_query.clamp(max=int(of_key.max())), of_key.repeat_interleave(attention.context.group, 0)


def _place(rank: Int[Tensor, "h n"]) -> Int[Tensor, "h n"]:
    order = rank.argsort(dim=-1, stable=True)
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )


def _drawn(heads: int, keys: int, samples: int, draw: torch.Generator) -> Int[Tensor, "h s"]:
    """Keys drawn with replacement, as in the code; none where there are no more keys than samples."""
    return torch.randint(keys, (heads, samples if keys > samples else 0), generator=draw)


def _part_output(
    attention: LayerAttention, part: Part, samples: Int[Tensor, " s"], head: int, block: int
) -> tuple[Float[Tensor, "a dv"], Float[Tensor, " a"]]:
    """Output and log-sum-exp of one head's queries over their blocks and the samples, in their own order."""
    kv = attention.kv_of(head)
    k, v = (x[kv, part.lo : part.mid].float() for x in (attention.k, attention.v))
    block = min(block, len(k))
    of_key = part.of_key[head]
    keys = F.pad(of_key.argsort(stable=True), (0, -len(k) % block), value=-1).view(-1, block)
    weight = math.log(len(k) / max(len(samples), 1))
    order = part.of_query[head].argsort(stable=True)
    q = attention.q[head, part.mid : part.hi].float()[order]
    out, lse = torch.empty((len(q), v.shape[1]), device=q.device), torch.empty(len(q), device=q.device)
    # Sorted queries fill their blocks one after another; only the last may hold more, as a block of its own with the same keys.
    block_of = torch.arange(-(-len(q) // block), device=q.device).clamp(max=len(keys) - 1)
    q = F.pad(q, (0, 0, 0, len(block_of) * block - len(q))).view(-1, block, q.shape[1])
    outs, sums = [], []
    for mine in block_of.split(max(_CHUNK // (block * (block + len(samples))), 1)):
        rows = q[sum(map(len, sums)) :][: len(mine)]
        near = _logits(attention, rows @ k[keys[mine]].mT).masked_fill_(keys[mine, None] < 0, float("-inf"))
        far = _logits(attention, rows @ k[samples].T).add_(weight)
        far = far.masked_fill_((of_key[samples] == mine[:, None])[:, None], float("-inf"))
        total = torch.logsumexp(torch.cat([near, far], 2), 2, keepdim=True)
        sums.append(total)
        outs.append((near - total).exp_() @ v[keys[mine]] + (far - total).exp_() @ v[samples])
    out[order] = torch.cat(outs).flatten(0, 1)[: len(order)]
    lse[order] = torch.cat(sums).flatten()[: len(order)]
    return out, lse


_CHUNK = 2**26
"""Logits of one head held at once, unless a single block has more."""


def _logits(attention: LayerAttention, products: Tensor) -> Tensor:
    s = products * attention.scaling
    return s if attention.softcap is None else attention.softcap * torch.tanh(s / attention.softcap)


def _merge(out: Tensor, lse: Tensor, more: Tensor, weight: Tensor, head: int, mid: int, hi: int) -> None:
    """Add what a part found for queries mid..hi-1 of a head to what they have."""
    total = torch.logaddexp(lse[head, mid:hi], weight)
    kept, new = ((x - total).exp()[:, None] for x in (lse[head, mid:hi], weight))
    out[head, mid:hi] = out[head, mid:hi] * kept + more * new
    lse[head, mid:hi] = total
