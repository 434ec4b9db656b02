"""Top-k encoding: the Triton forward in bounded chunks with its sparse backward, and the torch path for everywhere else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparse_rep.kernels.encoder_grads import encoder_grads


def exact_topk(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """torch.topk with its ties settled: equal values in order of index, the lowest indices kept at the boundary."""
    values, indices = pre.topk(k, dim=-1)
    with torch.no_grad():
        # Which of several equal values torch.topk keeps is open: rows with one more at the boundary are sorted whole.
        open_rows = ((pre >= values[:, -1:]).sum(-1) > k).nonzero()[:, 0]
        by_index = indices.sort(dim=-1).values
        if len(open_rows):
            by_index[open_rows] = (
                pre[open_rows].sort(dim=-1, descending=True, stable=True).indices[:, :k].sort(-1).values
            )
        order = pre.gather(1, by_index).sort(dim=-1, descending=True, stable=True).indices
        indices = by_index.gather(1, order)
    return pre.gather(1, indices), indices


def drop_nonpositive(values: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Slots that are not positive become empty: value 0, index -1. A NaN stays, for the caller to see."""
    empty = values <= 0
    return torch.where(empty, 0, values), torch.where(empty, -1, indices)


def encode_torch(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, relu: bool, select_fp32: bool
) -> tuple[Tensor, Tensor]:
    """The dense way: (n, m) pre-activations, torch's top-k, autograd by torch."""
    if x.dtype == torch.bfloat16 and not select_fp32:
        pre = torch.addmm(b_enc.to(x.dtype), x, W_enc.T)
    else:
        pre = x.to(_wide(x)) @ W_enc.to(_wide(x)).T + b_enc.to(_wide(x))
    values, indices = exact_topk(pre, k)
    values = values.to(_wide(x))
    return drop_nonpositive(values, indices) if relu else (values, indices)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


class TopKEncode(torch.autograd.Function):
    """x (n, d), W_enc (m, d), b_enc (m) -> values (n, k) fp32, indices (n, k) int64, by the Triton kernels."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, relu: bool, select_fp32: bool
    ) -> tuple[Tensor, Tensor]:
        from sparse_rep.kernels.product import Product
        from sparse_rep.kernels.select import select

        values = x.new_empty((len(x), k), dtype=torch.float32)
        indices = torch.empty((len(x), k), dtype=torch.int64, device=x.device)
        if len(x):
            bf16 = x.dtype == torch.bfloat16 and not select_fp32
            product = Product(x, W_enc, b_enc.float(), torch.bfloat16 if bf16 else torch.float32)
            for row in range(0, len(x), product.rows):
                pre, maxima = product.run(row)
                rows = slice(row, row + len(pre))
                select(pre, maxima, k, product.width, relu, values[rows], indices[rows])
        ctx.save_for_backward(x, W_enc, indices)
        ctx.bias_dtype = b_enc.dtype
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, W_enc, indices = ctx.saved_tensors
        dx, dW, db = encoder_grads("triton", grads[0], x, W_enc, indices, ctx.needs_input_grad[:3])
        return dx, dW, None if db is None else db.to(ctx.bias_dtype), None, None, None
