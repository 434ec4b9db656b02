"""Weighted sums of rows: the forward of a sparse decode, and d x of a sparse encode (Triton).

Blocks of columns are the slow axis of the grid: while all tokens read one block, the (m, block) slice of the weights stays
in L2, so each weight leaves device memory once however often it is used.
"""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

L2_SLICE_BYTES = 20 * 2**20
"""Of an H100's 50 MB of L2, what a slice may take: the two halves of the cache keep a copy each of what both read."""


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


def column_block(m: int, d: int, itemsize: int) -> int:
    """Columns a program sums: the widest block whose slice of the weights stays in L2, at least one 256-byte run."""
    block = 1024 // itemsize
    while block * itemsize > 256 and m * block * itemsize > L2_SLICE_BYTES:
        block //= 2
    return min(block, max(triton.next_power_of_2(d), 16))


def gather_sum(
    values: Tensor,
    indices: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    block_d: int | None = None,
    warps: int = 4,
    block_k: int = 16,
) -> Tensor:
    """`sum_j values[:, j] * weights[indices[:, j]] (+ bias)`: (n, d) in the weights' dtype, summed in fp32."""
    (n, k), (m, d) = indices.shape, weights.shape
    out = weights.new_empty((n, d))
    if n == 0:
        return out
    block_d = block_d or column_block(m, d, weights.element_size())
    gather_sum_kernel[(n * triton.cdiv(d, block_d),)](
        values, indices, weights, bias, out, n, k, d,
        BIAS=bias is not None, BLOCK_K=min(block_k, triton.next_power_of_2(k)), BLOCK_D=block_d, num_warps=warps,
    )  # fmt: skip
    return out
