"""Keep the k largest positive entries of each row, zero the rest, in place (Triton): AuxK's choice among dead latents."""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sparse_rep.kernels.select import ordered, take

MAX_COLUMNS = 32_768
"""Entries of a row that one program can hold in registers."""


@triton.jit
def keep_largest_kernel(x_ptr, k, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offset = tl.arange(0, BLOCK)
    inside = offset < columns
    x = tl.load(x_ptr + row * columns + offset, mask=inside, other=0.0)
    key = tl.where(inside & (x > 0), ordered(x), 0)
    chosen, _, _ = take(key, k, tl.full((), 0, tl.int32), tl.max(key, axis=0))
    tl.store(x_ptr + row * columns + offset, 0.0, mask=inside & ~(chosen & (x > 0)))


def keep_largest(x: Tensor, k: int) -> None:
    """`x (rows, columns)`: contiguous; ties to the earlier column. Rows with no more than k positive entries keep them all."""
    rows, columns = x.shape
    assert x.is_contiguous() and columns <= MAX_COLUMNS
    block = max(triton.next_power_of_2(columns), 32)
    keep_largest_kernel[(rows,)](x, min(k, block), columns, BLOCK=block, num_warps=min(max(block // 1024, 1), 16))
