"""The numbers of an optimiser step."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-8
"""Far below any gradient here: losses are normalised."""
BETAS = (0.9, 0.999)
"""Of the first and second moment; Gao et al. 2024 (arXiv 2406.04093), B.1, use 0.999 too."""


@dataclass(frozen=True)
class StepScalars:
    """What a step multiplies by, on the device. B is the number of members in a stack."""

    lr: Float[Tensor, " B"]
    grad_scale: Float[Tensor, " B"]
    """Turns raw gradients into those of the clipped loss."""
    corrections: Float[Tensor, " 2"]
    """1 - beta1^t and 1 - beta2^t of step t, counted from 1."""
