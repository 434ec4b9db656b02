"""Top-k encoding: the Triton forward in bounded chunks with its sparse backward, and the torch path for everywhere else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparse_rep.kernels.dispatch import Choice
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


TORCH_CHUNK_BYTES = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}
"""Pre-activations that plain torch holds at a time. On a CPU a chunk that stays in cache is written and searched for 1.3x less
time than one matrix; on a GPU the bound only keeps memory in check."""


def encode_torch(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, relu: bool, select_fp32: bool
) -> tuple[Tensor, Tensor]:
    """The dense way, without gradient: pre-activations a chunk of rows at a time, and torch's top-k of each."""
    bf16 = x.dtype == torch.bfloat16 and not select_fp32
    dtype = torch.bfloat16 if bf16 else _wide(x)
    W, bias = W_enc.to(dtype).T, b_enc.to(dtype)
    room = TORCH_CHUNK_BYTES.get(x.device.type, TORCH_CHUNK_BYTES["cuda"])
    rows = max(room // (len(W_enc) * dtype.itemsize), 1)
    values = x.new_empty((len(x), k), dtype=_wide(x))
    indices = torch.empty((len(x), k), dtype=torch.int64, device=x.device)
    for row in range(0, len(x), rows):
        some, where = exact_topk(torch.addmm(bias, x[row : row + rows].to(dtype), W), k)
        values[row : row + rows], indices[row : row + rows] = some.to(values.dtype), where
    return drop_nonpositive(values, indices) if relu else (values, indices)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


class TopKEncode(torch.autograd.Function):
    """x (n, d), W_enc (m, d), b_enc (m) -> values (n, k) fp32 or wider, indices (n, k) int64, by Triton or by plain torch.

    Both go back through the k used entries a row, never through an (n, m) matrix.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, relu: bool, select_fp32: bool, choice: Choice
    ) -> tuple[Tensor, Tensor]:
        ctx.choice, ctx.bias_dtype = choice, b_enc.dtype
        run = _forward_triton if choice == "triton" else encode_torch
        values, indices = run(x, W_enc, b_enc, k, relu, select_fp32)
        ctx.save_for_backward(x, W_enc, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, W_enc, indices = ctx.saved_tensors
        dx, dW, db = encoder_grads(ctx.choice, grads[0], x, W_enc, indices, ctx.needs_input_grad[:3])
        return dx, dW, None if db is None else db.to(ctx.bias_dtype), None, None, None, None


def _forward_triton(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, relu: bool, select_fp32: bool
) -> tuple[Tensor, Tensor]:
    """The fused way, without gradient: a chunk's product with the maxima of its groups, then a search of the best groups."""
    from sparse_rep.kernels.product import Product
    from sparse_rep.kernels.select import scratch_bytes, select

    values = x.new_empty((len(x), k), dtype=torch.float32)
    indices = torch.empty((len(x), k), dtype=torch.int64, device=x.device)
    if len(x):
        bf16 = x.dtype == torch.bfloat16 and not select_fp32
        dtype = torch.bfloat16 if bf16 else torch.float32
        product = Product(x, W_enc, b_enc.float(), dtype, scratch_bytes(k, dtype))
        for row in range(0, len(x), product.rows):
            pre, maxima = product.run(row)
            rows = slice(row, row + len(pre))
            select(pre, maxima, k, product.width, relu, values[rows], indices[rows])
    return values, indices
