"""What the products of a stack of coders read."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Operands:
    """The weights (B, m, d) in their 16-bit (or fp32) copies, the biases in fp32."""

    W_enc: Float[Tensor, "B m d"]
    W_dec: Float[Tensor, "B m d"]
    b_enc: Float[Tensor, "B m"]
    b_dec: Float[Tensor, "B d"]
    scale: Float[Tensor, ""]
    centre: Float[Tensor, " d"]
    k_mask: Tensor | None
    """(B, k): slots beyond a member's own k; None where all take the same."""
    k: int
    """Slots a token."""
    batch_k: float | None = None
    """BatchTopK: latents a token that are kept, on average over the batch."""
