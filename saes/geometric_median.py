"""The geometric median: the start of `b_dec` (Bricken et al. 2023, "Towards Monosemanticity", appendix)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def geometric_median(x: Float[Tensor, "n d"], max_steps: int = 100, tolerance: float = 1e-6) -> Float[Tensor, " d"]:
    """The point with the least summed distance to the rows (Weiszfeld's iteration, in float64).

    Stops when a step moves it by less than `tolerance` of its norm.
    """
    rows = x.double()
    centre = rows.mean(0)
    for _ in range(max_steps):
        # A row that coincides with the centre would have infinite weight; the clamp makes it merely very large.
        weights = 1 / (rows - centre).norm(dim=-1).clamp(min=1e-12)
        moved = (weights[:, None] * rows).sum(0) / weights.sum()
        if (moved - centre).norm() <= tolerance * moved.norm():
            centre = moved
            break
        centre = moved
    return centre.to(x.dtype)
