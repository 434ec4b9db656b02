"""Gradients of an encoder from the few pre-activations that were used: never an (n, m) or (n * k, d) matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparse_rep.kernels.decode import decode_torch
from sparse_rep.kernels.dispatch import Choice


def encoder_grads(
    choice: Choice, grad: Tensor, x: Tensor, W_enc: Tensor, indices: Tensor, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """(d x, d W_enc, d b_enc) for gradients `grad (n, k)` of the pre-activations at `indices (n, k)`; None where not needed."""
    need_x, need_W, need_b = needs
    grad = grad.contiguous()
    if choice != "triton":
        return _by_torch(grad, x, W_enc, indices, need_x, need_W, need_b)
    from sparse_rep.kernels.gather import gather_sum
    from sparse_rep.kernels.scatter import ReverseIndex, bias_sum, latent_sum

    dx = gather_sum(grad, indices, W_enc) if need_x else None
    dW = db = None
    if need_W or need_b:
        index = ReverseIndex.of(indices, len(W_enc))
        if need_W:
            dW = torch.empty_like(W_enc)
            latent_sum(index, grad, x, indices.shape[1], dW)
        if need_b:
            db = bias_sum(index, grad)
    return dx, dW, db


def _by_torch(
    grad: Tensor, x: Tensor, W_enc: Tensor, indices: Tensor, need_x: bool, need_W: bool, need_b: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    dx = decode_torch(grad, indices, W_enc, None) if need_x else None
    dW = db = None
    if need_W:
        # sum(grad * x W^T at indices) and <decode(grad, indices, W), x> are one bilinear form: its W gradient is decode's.
        with torch.enable_grad():
            W = W_enc.detach().requires_grad_()
            (dW,) = torch.autograd.grad(decode_torch(grad, indices, W, None), W, x)
    if need_b:
        used = indices >= 0
        db = torch.zeros(len(W_enc), dtype=grad.dtype, device=x.device)
        db.index_put_((indices[used],), grad[used], accumulate=True)
    return dx, dW, db
