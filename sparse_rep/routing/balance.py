"""Losses that keep routers in order while they are trained: load balance, and small logits."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def balance_loss(probabilities: Float[Tensor, "n e"], chosen: Int[Tensor, "n k"]) -> Float[Tensor, ""]:
    """E * sum_i f_i P_i: f_i the share of all choices that fell on expert i, P_i its mean probability over the tokens.

    1 for a router that is uniform in both, E where one expert gets everything (Fedus et al. 2021, arXiv 2101.03961, eq. 4, with
    f summing to 1 for any k; OLMoE's is k times this).
    """
    share = torch.zeros_like(probabilities).scatter(1, chosen, 1 / chosen.shape[1]).mean(0)
    return probabilities.shape[1] * (share * probabilities.mean(0)).sum()


def z_loss(logits: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
    """Mean over tokens of logsumexp(logits)^2 (Zoph et al. 2022, arXiv 2202.08906, eq. 5)."""
    return logits.float().logsumexp(1).square().mean()
