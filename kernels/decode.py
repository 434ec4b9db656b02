"""Sparse decoding: k rows of the decoder a token, forward and backward, on Triton or in plain torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def decode_torch(values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor | None) -> Tensor:
    """embedding_bag: no (n, k, d) buffer, forward or backward."""
    weights = torch.where(indices >= 0, values, 0).to(W_dec.dtype)
    out = torch.nn.functional.embedding_bag(indices.clamp(min=0), W_dec, per_sample_weights=weights, mode="sum")
    return out if b_dec is None else out + b_dec


class SparseDecode(torch.autograd.Function):
    """values (n, k), indices (n, k), W_dec (m, d), b_dec (d) -> (n, d) in W_dec's dtype, by the Triton kernels."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor | None) -> Tensor:
        from sparse_rep.kernels.gather import gather_sum

        ctx.save_for_backward(values, indices, W_dec)
        ctx.bias_dtype = None if b_dec is None else b_dec.dtype
        return gather_sum(values, indices, W_dec, b_dec)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        from sparse_rep.kernels.scatter import ReverseIndex, latent_sum

        values, indices, W_dec = ctx.saved_tensors
        grad = grads[0].contiguous()
        need_values, _, need_W, need_b = ctx.needs_input_grad
        dvalues = dW = None
        if need_values or need_W:
            # One pass gives both: while a latent's row is at hand, its uses' dot products are nearly free.
            dW = torch.empty_like(W_dec)
            index = ReverseIndex.of(indices, len(W_dec))
            dots = latent_sum(index, values, grad, indices.shape[1], dW, weights=W_dec if need_values else None)
            dvalues = None if dots is None else dots.to(values.dtype)
        db = grad.sum(0, dtype=torch.float32).to(ctx.bias_dtype) if need_b else None
        return dvalues, None, dW if need_W else None, db
