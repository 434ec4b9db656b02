"""Keep the k largest positive entries of each row, zero the rest, in place (Triton): AuxK's choice among dead latents."""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sparse_rep.kernels.select import ordered

MAX_COLUMNS = 32_768
"""Entries of a row that one program can hold in registers."""


@triton.jit
def keep_largest_kernel(x_ptr, k, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offset = tl.arange(0, BLOCK)
    inside = offset < columns
    x = tl.load(x_ptr + row * columns + offset, mask=inside, other=0.0)
    # Keys of positive entries are positive; the k-th largest is found bit by bit, or left where fewer are positive.
    key = tl.where(inside & (x > 0), ordered(x), 0)
    low = tl.full((), 1, tl.int32)
    high = tl.maximum(tl.max(key, axis=0), 1)
    while low < high:
        middle = low + (high - low + 1) // 2
        if tl.sum((key >= middle).to(tl.int32), axis=0) >= k:
            low = middle
        else:
            high = middle - 1
    tl.store(x_ptr + row * columns + offset, tl.where(key >= low, x, 0.0), mask=inside)


def keep_largest(x: Tensor, k: int) -> None:
    """`x (rows, columns)`, contiguous. Entries equal to the k-th largest are all kept; what is not positive becomes 0."""
    rows, columns = x.shape
    assert x.is_contiguous()
    assert columns <= MAX_COLUMNS
    block = max(triton.next_power_of_2(columns), 32)
    keep_largest_kernel[(rows,)](x, k, columns, BLOCK=block, num_warps=min(max(block // 512, 1), 16))
