"""Terms that several losses share. Every loss is a share of the variance, so that one gradient bound fits all coders."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def variance(target: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean squared distance of the rows to their mean; no gradient."""
    target = target.detach()
    return (target - target.mean(0)).square().sum(-1).mean().clamp(min=1e-12)


def mean_squared_norm(error: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean over tokens of the squared norm: what the papers call the reconstruction loss."""
    return error.square().sum(-1).mean()


def active_share(active: Tensor) -> Float[Tensor, ""]:
    """L0: mean over tokens of the number of marked entries, (n, k) or (n, m)."""
    return active.sum(-1, dtype=torch.float32).mean()
