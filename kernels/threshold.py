"""Threshold encoding (JumpReLU, L1 at threshold 0, gates, BatchTopK at inference): the active entries, no (n, m) matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparse_rep.kernels.dispatch import Choice
from sparse_rep.kernels.encoder_grads import encoder_grads

CHUNK_BYTES = 512 * 2**20
"""Extra memory that a call may take besides its result, whatever n and m."""


class ThresholdEncode(torch.autograd.Function):
    """-> rows (nnz), latents (nnz), values (nnz), sorted by row and latent. The values carry gradient, thresholds none."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, threshold: Tensor, choice: Choice
    ) -> tuple[Tensor, Tensor, Tensor]:
        if choice == "triton":
            from sparse_rep.kernels.compact import active_entries

            rows, latents, values = active_entries(x, W_enc, b_enc, threshold)
        else:
            rows, latents, values = _active_entries(x, W_enc, b_enc, threshold)
        ctx.save_for_backward(x, W_enc, rows, latents)
        ctx.choice, ctx.bias_dtype = choice, b_enc.dtype
        ctx.mark_non_differentiable(rows, latents)
        return rows, latents, values

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, W_enc, rows, latents = ctx.saved_tensors
        grad, indices = padded(grads[2], rows, latents, len(x))
        dx, dW, db = encoder_grads(ctx.choice, grad, x, W_enc, indices, ctx.needs_input_grad[:3])
        return dx, dW, None if db is None else db.to(ctx.bias_dtype), None, None


def padded(values: Tensor, rows: Tensor, latents: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Triples sorted by row as padded codes (n, k), k the longest row's count; empty slots -1 and 0."""
    counts = torch.bincount(rows, minlength=n)
    first = counts.cumsum(0) - counts
    slots = torch.arange(len(rows), device=rows.device) - first[rows]
    width = max(int(counts.max()) if n else 0, 1)
    out = values.new_zeros((n, width))
    indices = torch.full((n, width), -1, dtype=torch.int64, device=rows.device)
    out[rows, slots] = values
    indices[rows, slots] = latents
    return out, indices


def _active_entries(x: Tensor, W_enc: Tensor, b_enc: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    step = max(1, CHUNK_BYTES // (2 * len(W_enc) * wide.itemsize))
    parts = []
    for start in range(0, len(x), step):
        pre = (x[start : start + step] @ W_enc.T).to(wide) + b_enc.to(wide)
        rows, latents = (pre > threshold).nonzero(as_tuple=True)
        parts.append((rows + start, latents, pre[rows, latents]))
    if not parts:
        empty = torch.empty(0, dtype=torch.int64, device=x.device)
        return empty, empty.clone(), x.new_empty(0, dtype=wide)
    rows, latents, values = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return rows, latents, values
