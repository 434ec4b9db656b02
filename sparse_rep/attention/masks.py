"""What a sparse-attention method returns: which (query, key) pairs each head keeps, in a form that needs no n^2 memory.

A mask says what a *method* keeps. The layer's own mask (causal, sliding window) always holds beside it, and a query always
keeps its own key, so that no row is empty: whoever applies a mask adds both (`kept_rows`), and masks need not.

Forms, all with one choice a head:
    BlockMask       blocks of any size, so also whole columns for a group of queries (k_block = 1) or pages a query (q_block = 1)
    LineMask        columns (keys kept for all queries) and diagonals (distances kept for all queries): vertical-slash, windows
    StreamedMask    anything else, given as a function that is asked for a few rows at a time
    UnionMask       what any of several masks keeps
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from sparse_rep.attention.layer import LayerAttention


class Mask(ABC):
    """Kept pairs of every head of one layer."""

    n: int
    n_heads: int

    @abstractmethod
    def rows(self, head: int, lo: int, hi: int) -> Bool[Tensor, "r n"]:
        """Keys that queries lo..hi-1 of a head keep, before the layer's own mask and the diagonal."""

    @abstractmethod
    def blocks(self, size: int) -> Bool[Tensor, "h b b"]:
        """Square blocks of `size` that hold a kept pair: what a block-sparse kernel would compute.

        A block that only overhangs n, or the diagonal, may be among them though no pair of it counts.
        """


@final
@dataclass(frozen=True)
class BlockMask(Mask):
    """Pair (i, j) of head h is kept where `keep[h, i // q_block, j // k_block]` is."""

    keep: Bool[Tensor, "h qb kb"]
    n: int
    q_block: int
    k_block: int

    def __post_init__(self) -> None:
        expected = (-(-self.n // self.q_block), -(-self.n // self.k_block))
        if self.keep.dtype != torch.bool or self.keep.shape[1:] != expected:
            raise ValueError(
                f"keep {tuple(self.keep.shape)} {self.keep.dtype} must be boolean of shape (h, {expected[0]}, {expected[1]}) "
                f"for n={self.n} in blocks of {self.q_block} x {self.k_block}"
            )

    @property
    def n_heads(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.keep.shape[0]

    def rows(self, head: int, lo: int, hi: int) -> Tensor:
        first, last = lo // self.q_block, (hi - 1) // self.q_block + 1
        tall = self.keep[head, first:last].repeat_interleave(self.q_block, 0)[lo - first * self.q_block :][: hi - lo]
        return tall.repeat_interleave(self.k_block, 1)[:, : self.n]

    def at(self, queries: Int[Tensor, " r"], keys: Int[Tensor, " c"]) -> Bool[Tensor, "h r c"]:
        return self.keep[:, queries // self.q_block][:, :, keys // self.k_block]

    def blocks(self, size: int) -> Tensor:
        if (self.q_block, self.k_block) == (size, size):
            return self.keep
        return _touched(_touched(self.keep, self.q_block, size, self.n, 1), self.k_block, size, self.n, 2)


@final
@dataclass(frozen=True)
class LineMask(Mask):
    """Pair (i, j) of head h is kept where `columns[h, j]` or, for j <= i, `offsets[h, i - j]` is."""

    columns: Bool[Tensor, "h n"]
    offsets: Bool[Tensor, "h n"]

    def __post_init__(self) -> None:
        if self.columns.shape != self.offsets.shape or self.columns.ndim != 2:
            raise ValueError(
                f"columns {tuple(self.columns.shape)} and offsets {tuple(self.offsets.shape)} must be (h, n)"
            )

    @property
    def n(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.columns.shape[1]

    @property
    def n_heads(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.columns.shape[0]

    @staticmethod
    def of(columns: Sequence[Int[Tensor, " c"]], offsets: Sequence[Int[Tensor, " o"]], n: int) -> LineMask:
        """From lists of indices, one a head."""
        device = columns[0].device
        kept = [torch.zeros((len(lists), n), dtype=torch.bool, device=device) for lists in (columns, offsets)]
        for table, lists in zip(kept, (columns, offsets), strict=True):
            for row, indices in zip(table, lists, strict=True):
                row[indices.long()] = True
        return LineMask(*kept)

    def rows(self, head: int, lo: int, hi: int) -> Tensor:
        back = torch.arange(lo, hi, device=self.columns.device)[:, None] - torch.arange(
            self.n, device=self.columns.device
        )
        return self.columns[head] | (self.offsets[head][back.clamp(min=0)] & (back >= 0))

    def at(self, queries: Int[Tensor, " r"], keys: Int[Tensor, " c"]) -> Bool[Tensor, "h r c"]:
        back = queries[:, None] - keys
        return self.columns[:, None, keys] | (self.offsets[:, back.clamp(min=0)] & (back >= 0))

    def blocks(self, size: int) -> Tensor:
        b = -(-self.n // size)
        columns = _touched(self.columns, 1, size, self.n, 1)
        # Distance o joins blocks that are o // size apart, and one further where it is not a multiple.
        near = _touched(self.offsets, 1, size, self.n, 1)
        inner = F.pad(self.offsets, (0, b * size - self.n)).view(-1, b, size)[:, :, 1:].any(-1)
        far = near | F.pad(inner, (1, 0))[:, :b]
        apart = torch.arange(b, device=far.device)[:, None] - torch.arange(b, device=far.device)
        return columns[:, None, :] | (far[:, apart.clamp(min=0)] & (apart >= 0))


@final
@dataclass(frozen=True)
class StreamedMask(Mask):
    """`keep(head, lo, hi)` gives rows lo..hi-1 as a boolean (hi - lo, n). It must answer the same whenever it is asked."""

    n_heads: int
    n: int
    keep: Callable[[int, int, int], Bool[Tensor, "r n"]]

    def rows(self, head: int, lo: int, hi: int) -> Tensor:
        return self.keep(head, lo, hi)

    def blocks(self, size: int) -> Tensor:
        heads = [
            torch.stack([self._strip(head, lo, size) for lo in range(0, self.n, size)]) for head in range(self.n_heads)
        ]
        return torch.stack(heads)

    def _strip(self, head: int, lo: int, size: int) -> Tensor:
        hi = min(lo + size, self.n)
        back = torch.arange(lo, hi)[:, None] - torch.arange(self.n)
        rows = self.rows(head, lo, hi)
        return _touched((rows & (back >= 0).to(rows.device)).any(0)[None], 1, size, self.n, 1)[0]


@final
@dataclass(frozen=True)
class UnionMask(Mask):
    """What any of the parts keeps."""

    parts: tuple[Mask, ...]

    @property
    def n(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.parts[0].n

    @property
    def n_heads(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.parts[0].n_heads

    def rows(self, head: int, lo: int, hi: int) -> Tensor:
        kept = self.parts[0].rows(head, lo, hi)
        for part in self.parts[1:]:
            kept = kept | part.rows(head, lo, hi)
        return kept

    def blocks(self, size: int) -> Tensor:
        kept = self.parts[0].blocks(size)
        for part in self.parts[1:]:
            kept = kept | part.blocks(size)
        return kept


def kept_rows(mask: Mask, attention: LayerAttention, head: int, lo: int, hi: int) -> Bool[Tensor, "r n"]:
    """Pairs that queries lo..hi-1 really compute: the mask's, inside the layer's own mask, and each query's own key."""
    kept = mask.rows(head, lo, hi) & attention.visible(lo, hi)
    own = torch.arange(lo, hi, device=kept.device)
    kept[own - lo, own] = True
    return kept


def _touched(keep: Tensor, was: int, size: int, n: int, dim: int) -> Tensor:
    """Intervals of `size` along a dimension that overlap a kept interval of `was`; both cover positions 0..n-1."""
    wide = keep.repeat_interleave(was, dim).narrow(dim, 0, n) if was > 1 else keep
    count = -(-n // size)
    pad = [0, 0] * (keep.ndim - 1 - dim) + [0, count * size - n]
    wide = F.pad(wide, pad)
    return wide.unflatten(dim, (count, size)).any(dim + 1)
