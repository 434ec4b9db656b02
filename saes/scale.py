"""One number that makes activations comparable: their root-mean-square norm over sqrt(d)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def rms_scale(sample: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Divided by it, rows have mean squared norm d (Bricken et al. 2024, "Update on how we train SAEs": norm sqrt(d)).

    So one learning rate and one sparsity coefficient suit every model and layer.
    """
    return sample.square().mean().sqrt().clamp(min=1e-12)
