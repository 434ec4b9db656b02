"""Weighted sums of rows: the forward of a sparse decode, and d x of a sparse encode (Triton).

Blocks of columns are the slow axis of the grid: while all tokens read one block, much of the (m, block) slice of the weights
stays in L2, so that a weight leaves device memory less often than it is used.
"""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK_BYTES = 512
"""What one warp reads of a row in one instruction, and so a program's share: faster on an H100 than any wider block."""


@triton.jit
def gather_sum_kernel(
    values_ptr, indices_ptr, weights_ptr, bias_ptr, out_ptr, n, k, d,
    BIAS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    row = (program % n).to(tl.int64)
    columns = (program // n) * BLOCK_D + tl.arange(0, BLOCK_D)
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
    out = tl.sum(acc, axis=0)
    if BIAS:
        out += tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * d + columns, out.to(out_ptr.dtype.element_ty), mask=inside)


def gather_sum(values: Tensor, indices: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    """`sum_j values[:, j] * weights[indices[:, j]] (+ bias)`: (n, d) in the weights' dtype, summed in fp32."""
    (n, k), d = indices.shape, weights.shape[1]
    out = weights.new_empty((n, d))
    if n == 0:
        return out
    block_d = min(BLOCK_BYTES // weights.element_size(), max(triton.next_power_of_2(d), 16))
    gather_sum_kernel[(n * triton.cdiv(d, block_d),)](
        values, indices, weights, bias, out, n, k, d,
        BIAS=bias is not None, BLOCK_K=min(16, triton.next_power_of_2(k)), BLOCK_D=block_d, num_warps=1,
    )  # fmt: skip
    return out
