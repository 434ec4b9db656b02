"""Processes that train together: what they agree on, and how many bytes that takes.

Losses are means over tokens, so the loss of a batch is the mean over ranks of the losses of its equal parts, and so are its
gradients. What is not a mean (a variance, the k * n largest of a batch, which latents fired) is asked for here. Alone, every
question is answered at once and costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor


@final
class Ranks:
    """This process among `world` equal ones. Every method is called by all of them, in the same order.

    `sent` counts the bytes that this rank sends, by purpose, as ring algorithms send them: 2 (w - 1) / w of a tensor for an
    all-reduce, w - 1 times its own part for an all-gather.
    """

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world
        self.sent: Counter[str] = Counter()

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes."""
        return self.rank == 0

    def sum_(self, tensor: Tensor, purpose: str = "sums", op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
        """The sum over ranks, in place (contiguous tensors)."""
        if self.world > 1:
            dist.all_reduce(tensor, op)
            self.sent[purpose] += 2 * (self.world - 1) * tensor.nbytes // self.world
        return tensor

    def mean(self, tensor: Tensor, purpose: str = "sums") -> Tensor:
        """The mean over ranks, without gradient; the tensor itself when alone."""
        if self.world == 1:
            return tensor
        return self.sum_(tensor.detach().clone(), purpose).div_(self.world)

    def any(self, mask: Tensor) -> Tensor:
        """Where any rank's mask holds."""
        if self.world == 1:
            return mask
        return self.sum_(mask.to(torch.uint8), "fired", dist.ReduceOp.MAX).bool()

    def least(self, tensor: Tensor) -> Tensor:
        if self.world == 1:
            return tensor
        return self.sum_(tensor.detach().clone(), "sums", dist.ReduceOp.MIN)

    def gather(self, tensor: Tensor, purpose: str = "codes") -> Tensor:
        """Every rank's tensor (of equal shape), (world, ...)."""
        if self.world == 1:
            return tensor[None]
        out = tensor.new_empty((self.world, *tensor.shape))
        dist.all_gather(list(out), tensor.contiguous())
        self.sent[purpose] += (self.world - 1) * tensor.nbytes
        return out

    def sum_gradient(self, gradient: Tensor) -> Tensor:
        """The sum over ranks, in place; a matrix whose rows are mostly zero travels as the rows that are not."""
        if self.world == 1:
            return gradient
        if gradient.ndim == 2:
            used = gradient.ne(0).any(-1).nonzero()[:, 0]
            most = int(self.sum_(torch.tensor(len(used), device=gradient.device), "counts", dist.ReduceOp.MAX))
            row_bytes = gradient.shape[1] * gradient.element_size()
            if rows_are_fewer(most, gradient.shape[0], row_bytes, self.world):
                self._sum_rows(gradient, used, most)
                return gradient
        return self.sum_(gradient, "gradients")

    def _sum_rows(self, gradient: Tensor, used: Tensor, most: int) -> None:
        places = used.new_full((most,), -1)
        places[: len(used)] = used
        rows = gradient.new_zeros((most, gradient.shape[1]))
        rows[: len(used)] = gradient[used]
        all_places, all_rows = self.gather(places, "gradients"), self.gather(rows, "gradients")
        gradient.zero_()
        for at, theirs in zip(all_places, all_rows, strict=True):  # in order of rank: the same sum on every rank
            kept = at >= 0
            gradient.index_add_(0, at[kept], theirs[kept])

    def agreed(self, flag: bool, device: torch.device) -> bool:
        """Rank 0's answer, everywhere."""
        if self.world == 1:
            return flag
        answer = torch.tensor(int(flag), device=device)
        dist.broadcast(answer, 0)
        return bool(answer)


PLACE_BYTES = 8
"""A row's number, sent with it."""


def rows_are_fewer(rows: int, m: int, row_bytes: int, world: int) -> bool:
    """Whether gathering `rows` rows of each rank sends less than a ring all-reduce of all m."""
    return (world - 1) * rows * (row_bytes + PLACE_BYTES) < 2 * (world - 1) * m * row_bytes // world


ALONE = Ranks()
_current = ALONE


def current() -> Ranks:
    """The ranks of this process."""
    return _current


@contextmanager
def together(ranks: Ranks) -> Iterator[Ranks]:
    """Within the context `current` answers for these ranks."""
    global _current
    before, _current = _current, ranks
    try:
        yield ranks
    finally:
        _current = before
