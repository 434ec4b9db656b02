"""Which latent stands for which true feature: one for each, by what they do."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def activation_correlation(codes: Float[Tensor, "n m"], truth: Float[Tensor, "n f"]) -> Float[Tensor, "f m"]:
    """Pearson's correlation over tokens of each true feature with each latent; 0 where either never changes."""
    a, b = truth.double() - truth.double().mean(0), codes.double() - codes.double().mean(0)
    norms = a.norm(dim=0)[:, None] * b.norm(dim=0)[None, :]
    return torch.where(norms > 0, a.T @ b / norms.clamp(min=1e-30), 0)


def assignment(similarity: Float[Tensor, "f m"]) -> Int[Tensor, " f"]:
    """The latent of each feature, no latent twice, so that the summed similarity is largest (the Hungarian method).

    Raises ValueError where there are fewer latents than features.
    """
    features, latents = similarity.shape
    if latents < features:
        raise ValueError(f"{latents} latents cannot stand for {features} features one for one; widen the dictionary")
    return torch.from_numpy(linear_sum_assignment(similarity.cpu().numpy(), maximize=True)[1])
