"""The smooth step: a sigmoid that reaches 0 and 1, so that a soft choice can become a hard one and save its work."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def smooth_step(t: Float[Tensor, "*shape"], width: float | Tensor) -> Float[Tensor, "*shape"]:
    """0 for t <= -width/2, 1 for t >= width/2, between them the cubic that meets both with slope 0.

    -2 u^3 + 3/2 u + 1/2 at u = t / width (Hazimeh et al. 2020, arXiv 2002.07772, eq. 4). Outside the zone between, the
    gradient is exactly 0.
    """
    u = (t / width).clamp(-0.5, 0.5)
    return (1.5 - 2 * u * u) * u + 0.5


def plogp(p: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """p log p, 0 at p = 0, with a gradient that is 0 there."""
    return p * p.where(p > 0, 1).log()
