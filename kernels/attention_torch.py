"""Attention of one layer in plain torch, streamed over queries: the specification of attention.py, and what a CPU runs.

Shapes: q (h, n, d), k (g, n, d), v (g, n, dv); h / g query heads share a key-value head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 2**21
"""Logits held at once, all heads together: few enough to stay in a CPU's cache, and to skip most of what causality masks."""


@dataclass(frozen=True)
class Rule:
    """How queries attend: which keys they see and how a product becomes a logit."""

    scale: float
    causal: bool = True
    window: int | None = None
    """Keys a query sees, its own included; None: all before it (or all, where not causal)."""
    softcap: float | None = None
    """Logits become softcap * tanh(logit / softcap)."""


@dataclass(frozen=True)
class Lines:
    """Single keys to keep: pair (i, j) where `columns[h, i // rows, j]` or, for j <= i, `distances[h, i - j]`."""

    columns: Tensor
    """(h, groups, n), bool: one set of keys for each group of queries."""
    distances: Tensor
    """(h, n), bool."""
    rows: int
    """Queries of a group."""

    def kept(self, lo: int, hi: int, keys: int) -> Tensor:
        """(h, hi - lo, keys), bool; a query's own key is always kept."""
        device = self.columns.device
        queries = torch.arange(lo, hi, device=device)
        back = queries[:, None] - torch.arange(keys, device=device)
        near = self.distances[:, back.clamp(min=0)] & (back >= 0)
        return self.columns[:, queries // self.rows, :keys] | near | (back == 0)


def logit_chunks(q: Tensor, k: Tensor, rule: Rule, block: int = 1) -> Iterator[tuple[int, int, Tensor]]:
    """(lo, hi, logits (h, hi - lo, keys)) for consecutive queries; `lo` is a multiple of `block`, and -inf is masked.

    Keys run from 0 to hi - 1 under a causal rule, to n - 1 otherwise. In fp32, or fp64 for fp64 input.
    """
    h, n, d = q.shape
    g = len(k)
    wide = torch.promote_types(q.dtype, torch.float32)
    rows = max(CHUNK // max(h * n, 1) // block, 1) * block
    for lo in range(0, n, rows):
        hi = min(lo + rows, n)
        seen = hi if rule.causal else n
        grouped = q[:, lo:hi].to(wide).reshape(g, h // g * (hi - lo), d)
        s = (grouped @ k[:, :seen].to(wide).mT).mul_(rule.scale).view(h, hi - lo, seen)
        if rule.softcap is not None:
            s = rule.softcap * torch.tanh(s / rule.softcap)
        if rule.causal:
            back = torch.arange(lo, hi, device=q.device)[:, None] - torch.arange(seen, device=q.device)
            hidden = back < 0 if rule.window is None else (back < 0) | (back >= rule.window)
            s.masked_fill_(hidden, -math.inf)
        yield lo, hi, s


def log_sum_exp(q: Tensor, k: Tensor, rule: Rule) -> Tensor:
    """(h, n): log of the sum of exponentiated logits of each query."""
    return torch.cat([s.logsumexp(-1) for _, _, s in logit_chunks(q, k, rule)], 1)


def block_mass(q: Tensor, k: Tensor, lse: Tensor, rule: Rule, block: int) -> Tensor:
    """(h, b, b): mean over the queries of a block of their attention exp(logit - lse) to each block of keys."""
    h, n, _ = q.shape
    b = -(-n // block)
    mass = q.new_zeros((h, b, b), dtype=lse.dtype)
    for lo, hi, s in logit_chunks(q, k, rule, block):
        p = (s - lse[:, lo:hi, None]).exp_()
        tall, wide = -(-(hi - lo) // block), -(-p.shape[2] // block)
        p = F.pad(p, (0, wide * block - p.shape[2], 0, tall * block - p.shape[1]))
        mass[:, lo // block : lo // block + tall, :wide] = p.view(h, tall, block, wide, block).sum((2, 4))
    queries = torch.full((b,), float(block), device=q.device, dtype=lse.dtype)
    queries[-1] = n - (b - 1) * block
    return mass / queries[:, None]


def line_mass(q: Tensor, k: Tensor, lse: Tensor, rule: Rule) -> tuple[Tensor, Tensor, Tensor]:
    """Columns (h, n), distances (h, n) and entropy (h,) in nats, as means over queries.

    `columns[:, j]` is the attention that key j receives; `distances[:, o]` the attention to the key o before the query.
    """
    h, n, _ = q.shape
    columns = torch.zeros((h, n), device=q.device, dtype=lse.dtype)
    distances, entropy = torch.zeros_like(columns), torch.zeros_like(columns[:, 0])
    for lo, hi, s in logit_chunks(q, k, rule):
        t = s - lse[:, lo:hi, None]
        p = t.exp()
        columns[:, : p.shape[2]] += p.sum(1)
        entropy -= (p * t.nan_to_num_(neginf=0.0)).sum((1, 2))
        back = torch.arange(lo, hi, device=q.device)[:, None] - torch.arange(p.shape[2], device=q.device)
        distances.index_add_(1, back.clamp_(min=0).flatten(), p.flatten(1))
    return columns / n, distances / n, entropy / n


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, rule: Rule, keep: Tensor | None, block: int, lines: Lines | None = None
) -> tuple[Tensor, Tensor]:
    """Attention over the kept blocks of keys: output (h, n, dv) in q's dtype and its log-sum-exp (h, n).

    `keep (h, b, b)`; None keeps all. A query that keeps no key gives 0 and -inf.
    """
    h, g = len(q), len(v)
    out, lse = [], []
    for lo, hi, s in logit_chunks(q, k, rule, block):
        if keep is not None:
            first, last = lo // block, -(-hi // block)
            kept = keep[:, first:last].repeat_interleave(block, 1)[:, : hi - lo].repeat_interleave(block, 2)
            s = s.masked_fill_(~kept[:, :, : s.shape[2]], -math.inf)
        if lines is not None:
            s = s.masked_fill_(~lines.kept(lo, hi, s.shape[2]), -math.inf)
        top = s.amax(-1)
        top = top.masked_fill(top == -math.inf, 0.0)
        p = s.sub_(top[..., None]).exp_()
        total = p.sum(-1)
        mixed = (p.view(g, -1, p.shape[2]) @ v[:, : p.shape[2]].to(p.dtype)).view(h, hi - lo, -1)
        out.append((mixed / total.clamp(min=torch.finfo(total.dtype).tiny)[..., None]).to(q.dtype))
        lse.append(top + total.log())
    return torch.cat(out, 1), torch.cat(lse, 1)
