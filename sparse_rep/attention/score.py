"""Scores of masks on one layer, exact and streamed: methods.md's definitions, one number a head.

    density    pairs kept / visible pairs                        recall   mass of a query on the keys it keeps
    out_err    ||o' - o|| / ||o||, o' renormalised over them     oracle   most recall at the same count in every row
    bound      largest ||o' - o|| / (2 (1 - recall) max ||v||): renormalising moves an output no further, so never above 1

Blocks and lines run through one masked pass of all heads (kernels.attention); other masks are asked row by row. The oracle
chooses blocks where the method does and keys elsewhere. A query whose visible keys are all kept has recall 1 and counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_rep.attention.counts import keys_kept, keys_seen
from sparse_rep.attention.dense import Dense, rule_of
from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.masks import BlockMask, LineMask, Mask, kept_rows
from sparse_rep.attention.memory import queries_at_once
from sparse_rep.attention.method import Estimate
from sparse_rep.kernels.attention import BLOCK, Lines, masked_attention

FIRST = 4
"""Keys at the start of a text that count as the sink."""
KERNEL_BLOCKS = (16, 32, 64, 128)
ROWS = 4096
"""Queries whose outputs are compared at once."""


@dataclass(frozen=True)
class Scores:
    """One number a head, fp64 on the host."""

    density: Float[Tensor, " h"]
    block_density: Float[Tensor, " h"]
    """Density when every block of 128 x 128 that holds a kept pair is computed whole."""
    recall_mean: Float[Tensor, " h"]
    recall_p5: Float[Tensor, " h"]
    rows_below_90: Float[Tensor, " h"]
    recall_rest: Float[Tensor, " h"]
    """Recall of the mass beyond the first keys: kept there over all there."""
    oracle: Float[Tensor, " h"]
    """Over a sample of queries on long texts (dense.sample), as recall_mean plus the mean gap on the sample."""
    out_err: Float[Tensor, " h"]
    bound: Float[Tensor, " h"]
    granularity: Literal["block", "token"]


def score(dense: Dense, estimates: Sequence[Estimate]) -> list[Scores]:
    """Score every estimate on the layer that it was made from; rows before its `first_row` are left out."""
    tallies = [_Tally(dense, estimate) for estimate in estimates]
    by_rows = [tally for tally in tallies if not tally.add_all()]
    if by_rows:
        _add_rows(dense, by_rows)
    tokens = [t for t in tallies if t.granularity == "token"]
    for tally, gap in zip(tokens, _token_gaps(dense, tokens), strict=True):
        tally.gap = gap
    return [tally.scores() for tally in tallies]


class _Tally:
    """What is known of one estimate so far."""

    def __init__(self, dense: Dense, estimate: Estimate) -> None:
        self.dense, self.estimate, self.mask, self.first_row = dense, estimate, estimate.mask, estimate.first_row
        layer = dense.layer
        shape, like = (layer.n_heads, layer.n), {"dtype": torch.float32, "device": layer.device}
        self.recall, self.in_first = torch.zeros(shape, **like), torch.zeros(shape, **like)
        self.kept: Tensor | None = None
        """Keys kept by each query (h, n), where the oracle chooses keys."""
        self.touched: Tensor | None = None
        """Kept pairs by square block (h, b, b), where the mask was asked row by row."""
        self.squares = torch.zeros((2, layer.n_heads), dtype=torch.float64, device=layer.device)
        self.worst = torch.zeros(layer.n_heads, dtype=torch.float64, device=layer.device)
        self.gap: Tensor | None = None
        self.granularity: Literal["block", "token"] = "token"
        mask = estimate.mask
        if isinstance(mask, BlockMask) and mask.q_block == mask.k_block and not self.first_row:
            self.granularity = "block"
            # A kernel that works by blocks keeps the one on the diagonal whole.
            own = torch.eye(mask.keep.shape[1], dtype=torch.bool, device=layer.device)
            self.mask = BlockMask(mask.keep | own, mask.n, mask.q_block, mask.k_block)
        self.reach = layer.v.float().norm(dim=-1).amax(-1).repeat_interleave(layer.context.group)

    def add_all(self) -> bool:
        """One masked pass over all heads. False, and nothing added, where the mask must be asked row by row."""
        dense, layer, mask = self.dense, self.dense.layer, self.mask
        arguments = masked_arguments(mask, layer)
        if arguments is None or (arguments[1] is None and self.granularity == "token"):
            return False
        keep, lines, block = arguments
        out, lse = masked_attention(layer.q, layer.k, layer.v, rule_of(layer), keep, block=block, lines=lines)
        if self.granularity == "token":
            assert isinstance(mask, BlockMask | LineMask)
            self.kept = keys_kept(mask, layer.context)
        every = torch.arange(layer.n, device=layer.device)
        first = every[:FIRST]
        assert isinstance(mask, BlockMask | LineMask)
        at_first = mask.at(every, first) | (every[:, None] == first)
        self.in_first = (dense.first_keys(FIRST) * at_first).sum(-1)
        for lo in range(0, layer.n, ROWS):
            self._compare(slice(None), lo, min(lo + ROWS, layer.n), out[:, lo : lo + ROWS], lse[:, lo : lo + ROWS])
        return True

    def add_rows(self, head: int, lo: int, hi: int, logits: Float[Tensor, "r n"], v: Float[Tensor, "n dv"]) -> None:
        """Some queries of one head, all of whose logits are there."""
        kept = kept_rows(self.mask, self.dense.layer, head, lo, hi)
        assert self.kept is not None
        assert self.touched is not None
        self.kept[head, lo:hi] = kept.sum(-1)
        by_block = F.pad(kept, (0, -kept.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK)).sum(-1, dtype=torch.float32)
        self.touched[head].index_add_(0, torch.arange(lo, hi, device=kept.device) // BLOCK, by_block)
        s = logits.masked_fill(~kept, float("-inf"))
        lse = s.logsumexp(-1)
        p = (s - lse[:, None]).exp_()
        weight = (lse - self.dense.lse[head, lo:hi]).exp()
        self.in_first[head, lo:hi] = p[:, :FIRST].sum(-1) * weight
        self._compare(slice(head, head + 1), lo, hi, (p @ v)[None], lse[None])

    def _compare(self, heads: slice, lo: int, hi: int, out: Tensor, lse: Tensor) -> None:
        dense, layer = self.dense, self.dense.layer
        recall = (lse - dense.lse[heads, lo:hi]).exp().clamp(max=1.0)
        self.recall[heads, lo:hi] = recall
        lost = 1 - recall
        out = renormalised_by_sink(out.float(), lse, None if layer.sinks is None else layer.sinks[heads])
        if dense.sunk is not None:
            lost = lost * (1 - dense.sunk[heads, lo:hi])
        exact = dense.out[heads, lo:hi].float()
        skip = max(self.first_row - lo, 0)
        moved = (out - exact).norm(dim=-1)
        reach = self.reach[heads, None]
        # What rounding alone may move an output by, so that a lost mass of 0 does not divide it.
        slack = 8 * max(torch.finfo(t).eps for t in (dense.out.dtype, torch.float32)) * reach
        ratio = (moved - slack).clamp(min=0) / (2 * lost * reach).clamp(min=1e-30)
        if hi > self.first_row:
            self.worst[heads] = torch.maximum(self.worst[heads], ratio[:, skip:].amax(-1).double())
        claimed = self.estimate.output
        if claimed is not None:
            moved = (claimed[heads, lo:hi].float() - exact).norm(dim=-1)
        self.squares[0, heads] += moved[:, skip:].double().square().sum(-1)
        self.squares[1, heads] += exact[:, skip:].double().square().sum((1, 2))

    def scores(self) -> Scores:
        layer, first_row = self.dense.layer, self.first_row
        context, device = layer.context, layer.device
        visible = keys_seen(context, device)[first_row:].sum().double()
        recall = self.recall[:, first_row:]
        mean = recall.double().mean(-1)
        if self.granularity == "block":
            assert isinstance(self.mask, BlockMask)
            size = self.mask.q_block
            pairs = self.dense.pairs(size)
            keep = self.mask.keep & (pairs > 0)
            density = (keep * pairs).sum((1, 2)) / visible
            oracle = _block_oracle(self.dense.best_blocks(size), keep, size, context.n)
        else:
            assert self.kept is not None
            assert self.gap is not None
            density = self.kept[:, first_row:].sum(-1) / visible
            oracle = mean + self.gap.clamp(min=0)
        everywhere = 1 - self.dense.first_keys(FIRST)[:, first_row:].sum(-1).double().mean(-1)
        rest = (mean - self.in_first[:, first_row:].double().mean(-1)) / everywhere.clamp(min=1e-12)
        return Scores(
            density=density.cpu(),
            block_density=self._block_density().cpu(),
            recall_mean=mean.cpu(),
            recall_p5=recall.quantile(0.05, -1).double().cpu(),
            rows_below_90=(recall < 0.9).double().mean(-1).cpu(),
            recall_rest=rest.clamp(0, 1).cpu(),
            oracle=oracle.cpu(),
            out_err=(self.squares[0] / self.squares[1].clamp(min=1e-30)).sqrt().cpu(),
            bound=self.worst.cpu(),
            granularity=self.granularity,
        )

    def _block_density(self) -> Tensor:
        first = self.first_row // BLOCK
        pairs = self.dense.pairs(BLOCK)[first:]
        keep = self.mask.blocks(BLOCK)[:, first:] if self.touched is None else self.touched[:, first:] > 0
        own = torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)[first:]
        return ((keep | own) * pairs).sum((1, 2)) / pairs.sum()


def masked_arguments(mask: Mask, layer: LayerAttention) -> tuple[Bool[Tensor, "h b b"], Lines | None, int] | None:
    """A mask as `masked_attention` takes it (keep, lines, block); None for one that must be asked row by row.

    It takes lines, columns of groups of queries, and square blocks of a kernel's size.
    """
    if isinstance(mask, LineMask) and layer.causal:
        return mask.blocks(BLOCK), Lines(mask.columns[:, None], mask.offsets, mask.n), BLOCK
    if not isinstance(mask, BlockMask):
        return None
    if mask.q_block == mask.k_block and mask.q_block in KERNEL_BLOCKS:
        return mask.keep, None, mask.q_block
    if mask.k_block == 1 and layer.causal and (mask.q_block % BLOCK == 0 or mask.q_block >= mask.n):
        return mask.blocks(BLOCK), Lines(mask.keep, torch.zeros_like(mask.keep[:, 0]), mask.q_block), BLOCK
    return None


def renormalised_by_sink(
    out: Float[Tensor, "h n dv"], lse: Float[Tensor, "h n"], sinks: Float[Tensor, " h"] | None
) -> Float[Tensor, "h n dv"]:
    """An output over keys whose log-sum-exp is `lse`, once the heads' learned sinks take their share."""
    if sinks is None:
        return out
    return (out * torch.sigmoid(lse - sinks.to(lse)[:, None])[..., None]).to(out.dtype)


def _add_rows(dense: Dense, tallies: list[_Tally]) -> None:
    layer = dense.layer
    start = min(t.first_row for t in tallies)
    b = -(-layer.n // BLOCK)
    for tally in tallies:
        tally.kept = torch.zeros((layer.n_heads, layer.n), dtype=torch.float64, device=layer.device)
        tally.touched = torch.zeros((layer.n_heads, b, b), device=layer.device)
    size = queries_at_once(layer.n)
    for head in range(layer.n_heads):
        v = layer.v[layer.kv_of(head)].to(dense.lse)
        for lo in range(start, layer.n, size):
            hi = min(lo + size, layer.n)
            logits = layer.logits(head, lo, hi)
            for tally in tallies:
                if hi > tally.first_row:
                    tally.add_rows(head, lo, hi, logits, v)


def _token_gaps(dense: Dense, tallies: list[_Tally]) -> list[Tensor]:
    """Mean over sampled queries of how much more recall the best keys, as many, would have."""
    layer = dense.layer
    gaps = torch.zeros((len(tallies), layer.n_heads), dtype=torch.float64, device=layer.device)
    if not tallies:
        return []
    for head in range(layer.n_heads):
        totals = torch.zeros((2, len(tallies)), dtype=torch.float64, device=layer.device)
        for queries, best in dense.sorted_rows(head):
            for i, tally in enumerate(tallies):
                assert tally.kept is not None
                scored = queries >= tally.first_row
                count = tally.kept[head, queries].long().clamp(min=1)
                more = best.gather(-1, count[:, None] - 1)[:, 0] - tally.recall[head, queries]
                totals[0, i] += (more * scored).sum()
                totals[1, i] += scored.sum()
        gaps[:, head] = totals[0] / totals[1].clamp(min=1)
    return list(gaps)


def _block_oracle(best: Float[Tensor, "h b b"], keep: Bool[Tensor, "h b b"], size: int, n: int) -> Float[Tensor, " h"]:
    """Recall of the best blocks, as many in every row of blocks as `keep` has."""
    rows = best.gather(-1, keep.sum(-1, keepdim=True).clamp(min=1) - 1)[..., 0].double()
    queries = (n - size * torch.arange(rows.shape[-1], device=best.device)).clamp(max=size)
    return (rows * queries).sum(-1) / n
