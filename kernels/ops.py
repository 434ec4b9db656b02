"""The public operations: checked arguments, and a choice of implementation made a call, never at import.

`backend` is "auto" (the fastest correct one for the device and dtype), "triton" or "reference".
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from sparse_rep.kernels import reference
from torch import Tensor

Backend = Literal["auto", "triton", "reference"]


def topk_encode(
    x: Float[Tensor, "n d"],
    W_enc: Float[Tensor, "m d"],
    b_enc: Float[Tensor, " m"],
    k: int,
    b_dec: Float[Tensor, " d"] | None = None,
    relu: bool = True,
    *,
    backend: Backend = "auto",
    check: bool = True,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k largest pre-activations of each row; see `reference.topk_encode`.

    torch.topk on the product: the same values, and equal indices wherever no two candidates tie.
    Raises ValueError where shapes disagree, k is outside 1..m or, with `check`, x is not finite.
    """
    _require_encoder_shapes(x, W_enc, b_enc, b_dec)
    _require_k(k, W_enc.shape[0])
    if check:
        _require_finite(x)
    if backend == "reference":
        return reference.topk_encode(x, W_enc, b_enc, k, b_dec, relu)
    pre = torch.addmm(b_enc, x if b_dec is None else x - b_dec, W_enc.T)
    values, indices = pre.topk(k, dim=-1)
    if not relu:
        return values, indices
    positive = values > 0
    return torch.where(positive, values, 0), torch.where(positive, indices, -1)


def sparse_decode(
    values: Float[Tensor, "n k"],
    indices: Int[Tensor, "n k"],
    W_dec: Float[Tensor, "m d"],
    b_dec: Float[Tensor, " d"] | None = None,
    *,
    backend: Backend = "auto",
) -> Float[Tensor, "n d"]:
    """Weighted sum of k rows a token, without an (n, k, d) buffer; see `reference.sparse_decode`."""
    if values.shape != indices.shape:
        raise ValueError(f"values {tuple(values.shape)} and indices {tuple(indices.shape)} differ in shape")
    if backend == "reference":
        return reference.sparse_decode(values, indices, W_dec, b_dec)
    weights = torch.where(indices >= 0, values, 0).to(W_dec.dtype)
    out = torch.nn.functional.embedding_bag(indices.clamp(min=0), W_dec, per_sample_weights=weights, mode="sum")
    return out if b_dec is None else out + b_dec


def backend_name(device: torch.device | str) -> str:
    """What "auto" runs on a device, for the run's record."""
    return "reference" if torch.device(device).type == "cpu" else "torch"


def _require_encoder_shapes(x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor | None) -> None:
    if x.ndim != 2 or W_enc.ndim != 2 or x.shape[1] != W_enc.shape[1]:
        raise ValueError(f"x {tuple(x.shape)} must be (n, d) and W_enc {tuple(W_enc.shape)} (m, d) with the same d")
    if b_enc.shape != W_enc.shape[:1]:
        raise ValueError(f"b_enc {tuple(b_enc.shape)} must hold one bias a latent: ({W_enc.shape[0]},)")
    if b_dec is not None and b_dec.shape != x.shape[1:]:
        raise ValueError(f"b_dec {tuple(b_dec.shape)} must be (d,) = ({x.shape[1]},)")


def _require_k(k: int, n_latents: int) -> None:
    if not 1 <= k <= n_latents:
        raise ValueError(f"k={k} must lie in 1..{n_latents}, the number of latents; lower k or widen the dictionary")


def _require_finite(x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x holds NaN or infinite values; find the token that makes them before encoding")
