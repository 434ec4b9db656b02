"""Terms that several losses share. Every loss is a share of the variance, so that one gradient bound fits all coders."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_rep.saes.ranks import current


def variance(target: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean squared distance of the rows, of all ranks, to their mean; no gradient."""
    target, ranks = target.detach(), current()
    mean = ranks.mean(target.mean(0))
    return ranks.mean((target - mean).square().sum(-1).mean()).clamp(min=1e-12)


def mean_squared_norm(error: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean over tokens of the squared norm: what the papers call the reconstruction loss."""
    return error.square().sum(-1).mean()


def rectifier_gain(n_latents: int, d: int) -> float:
    """Encoder norm for which ReLU codes of random atoms, half of them active, first add up to x and not to a multiple.

    Over random unit rows w, the mean of m ReLU(<w, x>) w is m / (2 d) x.
    """
    return min(1.0, 2 * d / n_latents)


def active_share(active: Tensor) -> Float[Tensor, ""]:
    """L0: mean over tokens of the number of marked entries, (n, k) or (n, m)."""
    return current().mean(active.sum(-1, dtype=torch.float32).mean())
