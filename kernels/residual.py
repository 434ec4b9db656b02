"""What a sparse reconstruction leaves of its target, and its squared norm, in one pass (Triton).

Rows are (token, member) pairs, member fastest: the members of a stack decode the same tokens with their own atoms.
"""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_rep.kernels.gather import BLOCK_BYTES


@triton.jit
def residual_kernel(
    values_ptr, indices_ptr, weights_ptr, bias_ptr, x_ptr, scale_ptr, out_ptr, squares_ptr, rows, members, k, d,
    BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    row = (program % rows).to(tl.int64)
    columns = (program // rows) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = columns < d
    acc = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    for start in range(0, k, BLOCK_K):
        slot = start + tl.arange(0, BLOCK_K)
        index = tl.load(indices_ptr + row * k + slot, mask=slot < k, other=-1)
        value = tl.load(values_ptr + row * k + slot, mask=slot < k, other=0.0)
        used = index >= 0
        weights = tl.load(
            weights_ptr + index.to(tl.int64)[:, None] * d + columns[None, :],
            mask=used[:, None] & inside[None, :],
            other=0.0,
        )
        acc += tl.where(used, value, 0.0).to(tl.float32)[:, None] * weights.to(tl.float32)
    x = tl.load(x_ptr + (row // members) * d + columns, mask=inside, other=0.0).to(tl.float32) / tl.load(scale_ptr)
    bias = tl.load(bias_ptr + (row % members) * d + columns, mask=inside, other=0.0)
    left = tl.where(inside, x - (tl.sum(acc, axis=0) + bias), 0.0)
    tl.store(out_ptr + row * d + columns, left.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(squares_ptr + program, tl.sum(left * left, axis=0))


def residual(
    values: Tensor, indices: Tensor, weights: Tensor, bias: Tensor, x: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """`x / scale - (sum_j values[:, j] * weights[indices[:, j]] + bias)` in the weights' dtype, and each row's squared norm.

    `values`, `indices` (n * B, k), row = token * B + member; `weights` (any, d); `bias` (B, d) fp32; `x` (n, d); the sums
    and the squares, (n * B) fp32, are taken before rounding.
    """
    (rows, k), (members, d) = indices.shape, bias.shape
    out = weights.new_empty((rows, d))
    block_d = min(BLOCK_BYTES // weights.element_size(), max(triton.next_power_of_2(d), 16))
    blocks = triton.cdiv(d, block_d)
    squares = torch.empty((blocks, rows), dtype=torch.float32, device=x.device)
    residual_kernel[(rows * blocks,)](
        values, indices, weights, bias, x, scale, out, squares, rows, members, k, d,
        BLOCK_K=min(16, triton.next_power_of_2(k)), BLOCK_D=block_d, num_warps=1,
    )  # fmt: skip
    return out, squares.sum(0)
