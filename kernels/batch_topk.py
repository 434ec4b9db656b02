"""The n * k largest entries of a whole batch, exact (BatchTopK, Matryoshka training).

torch.topk of the flattened batch is fast on a CPU and on CUDA (a radix selection of ours was four times slower on an H100):
it finds the boundary value, and what is left is to settle which of the entries equal to it are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kept_mask(pre: Tensor, keep: int) -> Tensor:
    """Boolean (n, m): the `keep` largest entries; among equal ones at the boundary, those earliest in row-major order."""
    flat = pre.detach().flatten()
    boundary = flat.topk(keep).values[-1]
    kept = flat >= boundary
    excess = int(kept.sum()) - keep
    if excess > 0:
        kept[(flat == boundary).nonzero()[-excess:, 0]] = False
    return kept.view_as(pre)


def batch_topk(pre: Tensor, k: int) -> Tensor:
    keep = min(len(pre) * k, pre.numel())
    return torch.where(kept_mask(pre, keep) & (pre > 0), pre, 0)
