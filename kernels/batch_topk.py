"""The n * k largest entries of a whole batch, exact (BatchTopK, Matryoshka training)."""

from __future__ import annotations

import torch
from sparse_rep.kernels.dispatch import Choice
from torch import Tensor


def kept_mask(pre: Tensor, keep: int, choice: Choice) -> Tensor:
    """Boolean (n, m): the `keep` largest entries; among equal ones at the boundary, those earliest in row-major order."""
    flat = pre.detach().flatten()
    if choice == "triton":
        from sparse_rep.kernels.radix import kth_largest

        threshold = kth_largest(flat, keep)
    else:
        threshold = flat.kthvalue(flat.numel() - keep + 1).values
    above, equal = flat > threshold, flat == threshold
    room = keep - above.sum()
    if not bool(equal.sum() == room):
        # Positions, not values: integers sum the same in any order.
        equal &= equal.cumsum(0, dtype=torch.int64) <= room
    return (above | equal).view_as(pre)


def batch_topk(pre: Tensor, k: int, choice: Choice) -> Tensor:
    mask = kept_mask(pre, min(len(pre) * k, pre.numel()), choice) & (pre > 0)
    return torch.where(mask, pre, 0)
