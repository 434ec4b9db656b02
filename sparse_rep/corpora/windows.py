"""How a corpus is shown to a model: documents cut into windows, windows grouped into padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Windows side by side, padded on the right."""

    input_ids: Tensor
    """(b, t), int64; each row begins with BOS where the tokenizer has that rule."""
    attention_mask: Tensor
    """(b, t): 1 for tokens of the corpus and BOS, 0 for padding."""
    real: Tensor
    """(b, t), bool: tokens of the corpus. `x[real]` are their activations, in the order of `tok`."""
    tok: Tensor
    """(n,), int64: position of each real token in the corpus."""
    position: Tensor
    """(n,), int64: its position in the window as the model counts, BOS being 0 where there is one."""


class Windows:
    """Every window of some documents, in order.

    A document is cut into windows of at most `context` positions (one of which BOS takes, where there is one) from its start;
    a window never holds tokens of two documents. The last window of a document may be short.

    Args:
        documents: (tok_lo, tok_hi) of each document, ascending and disjoint.
        context: longest window in positions.
        bos_id: token that goes before each window, or None.
    """

    def __init__(
        self, documents: Sequence[tuple[int, int]] | np.ndarray, context: int, bos_id: int | None = None
    ) -> None:
        self.bos_id = bos_id
        self.room = context - (bos_id is not None)
        bounds = np.asarray(documents, dtype=np.int64).reshape(-1, 2)
        cuts = [np.arange(lo, hi, self.room) for lo, hi in bounds]
        self.lo = np.concatenate(cuts) if cuts else np.empty(0, np.int64)
        ends = [np.minimum(c + self.room, hi) for c, (_, hi) in zip(cuts, bounds, strict=True)]
        self.hi = np.concatenate(ends) if ends else np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.lo)

    @cached_property
    def n_tokens(self) -> int:
        """Corpus tokens in all windows together."""
        return int((self.hi - self.lo).sum())

    def shards(self, shard_tokens: int) -> list[tuple[int, int]]:
        """(tok_lo, tok_hi) of consecutive groups of whole windows, each the smallest of at least `shard_tokens` tokens.

        The same for the same documents, whoever asks; together they hold every window once. The bounds are the first window's
        start and the last window's end.
        """
        filled = np.cumsum(self.hi - self.lo)
        shards, first, done = [], 0, 0
        while first < len(self):
            last = min(int(np.searchsorted(filled, done + shard_tokens)), len(self) - 1)
            shards.append((int(self.lo[first]), int(self.hi[last])))
            first, done = last + 1, int(filled[last])
        return shards

    def within(self, tok_lo: int, tok_hi: int) -> range:
        """Numbers of the windows that lie in [tok_lo, tok_hi), such as those of a shard."""
        return range(int(np.searchsorted(self.lo, tok_lo)), int(np.searchsorted(self.hi, tok_hi, side="right")))

    def batches(self, token_ids: np.ndarray, windows: range, batch_tokens: int) -> Iterator[Batch]:
        """The windows of a range as batches of at most `batch_tokens` positions with padding, longest windows first.

        Grouping by length keeps padding small. A window longer than `batch_tokens` is a batch of its own.
        """
        lengths = self.hi[windows.start : windows.stop] - self.lo[windows.start : windows.stop]
        order = windows.start + np.argsort(-lengths, kind="stable")
        first = 0
        while first < len(order):
            width = int(self.hi[order[first]] - self.lo[order[first]]) + (self.bos_id is not None)
            rows = max(batch_tokens // width, 1)
            yield self._batch(token_ids, order[first : first + rows], width)
            first += rows

    def _batch(self, token_ids: np.ndarray, chosen: np.ndarray, width: int) -> Batch:
        import torch

        skip = int(self.bos_id is not None)
        column = np.arange(width)[None, :] - skip
        tok = self.lo[chosen][:, None] + column
        real = (column >= 0) & (tok < self.hi[chosen][:, None])
        ids = np.full(real.shape, self.bos_id or 0, dtype=np.int64)
        ids[real] = token_ids[tok[real]]
        attention = real | (column < 0)
        position = np.broadcast_to(column + skip, real.shape)
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(attention.astype(np.int64)),
            torch.from_numpy(real),
            torch.from_numpy(tok[real]),
            torch.from_numpy(position[real]),
        )
