"""The k largest of each row from its groups' maxima: exact, sorted, ties to the lowest index (Triton).

All k largest of a row lie in the k groups with the largest maxima: an element of any other group is beaten by one element
of each of those. Groups are runs of neighbouring columns and group ties go to the lower group, so equal values keep the
order of their indices. A row is one program: find the k-th largest maximum by bisecting its bit pattern, list the k
groups, do the same among their k * G elements, and order the k that remain by counting who is ahead of whom.
"""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnbound=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_CANDIDATES = 32_768
"""k * (columns in a group) that one program can hold in registers."""


@triton.jit
def ordered(x):
    """int32 whose order is that of the floats: 16 significant bits for bf16, else 32; NaN highest, -0 equal to 0."""
    bits = x.to(tl.float32).to(tl.int32, bitcast=True)
    if x.dtype == tl.bfloat16:
        bits = bits >> 16
        FLIP: tl.constexpr = 0x7FFF
    else:
        FLIP: tl.constexpr = 0x7FFFFFFF
    key = bits ^ ((bits >> 31) & FLIP)
    key = tl.where(x == 0, 0, key)
    return tl.where(x != x, FLIP, key)


@triton.jit
def as_float(key, BF16: tl.constexpr):
    SHIFT: tl.constexpr = 16 if BF16 else 0
    bits = (key ^ ((key >> 31) & (0x7FFFFFFF >> SHIFT))) << SHIFT
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def take(key, k, BITS: tl.constexpr):
    """Mask of the k largest keys, the earlier position first among equals, and each one's place among the chosen."""
    low = tl.full((), -1, tl.int32) << (BITS - 1)
    bit = tl.full((), BITS - 1, tl.int32)
    reached = tl.full((), key.shape[0], tl.int32)
    while (bit >= 0) & (reached != k):
        middle = low + (tl.full((), 1, tl.int32) << bit)
        count = tl.sum((key >= middle).to(tl.int32), axis=0)
        if count >= k:
            low = middle
            reached = count
        bit -= 1
    chosen = key >= low
    if reached != k:
        equal = key == low
        room = k - reached + tl.sum(equal.to(tl.int32), axis=0)
        chosen = (key > low) | (equal & (tl.cumsum(equal.to(tl.int32), axis=0) <= room))
    return chosen, tl.cumsum(chosen.to(tl.int32), axis=0) - 1


@triton.jit
def select_kernel(
    pre_ptr, max_ptr, groups_ptr, picks_ptr, values_ptr, indices_ptr, k, n_groups, stride_pre, stride_max,
    K2: tl.constexpr, NG2: tl.constexpr, G: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    BF16: tl.constexpr = pre_ptr.dtype.element_ty == tl.bfloat16
    BITS: tl.constexpr = 16 if BF16 else 32
    LOWEST: tl.constexpr = -(1 << (BITS - 1))
    row = tl.program_id(0).to(tl.int64)
    groups_ptr += row * K2
    picks_ptr += row * K2

    g = tl.arange(0, NG2)
    maxima = tl.load(max_ptr + row * stride_max + g, mask=g < n_groups, other=0.0)
    key = tl.where(g < n_groups, ordered(maxima), LOWEST)
    wanted = min(k, n_groups)
    chosen, place = take(key, wanted, BITS)
    tl.store(groups_ptr + place, g, mask=chosen)
    tl.debug_barrier()

    c = tl.arange(0, K2 * G)
    inside = c < wanted * G
    column = tl.load(groups_ptr + c // G, mask=inside, other=0) * G + c % G
    pre = tl.load(pre_ptr + row * stride_pre + column, mask=inside, other=0.0)
    key = tl.where(inside, ordered(pre), LOWEST)
    chosen, place = take(key, k, BITS)
    # One integer holds value and index: larger is better, no two are equal.
    packed = (key.to(tl.int64) << 32) | (0x7FFFFFFF - column).to(tl.int64)
    tl.store(picks_ptr + place, packed, mask=chosen)
    tl.debug_barrier()

    s = tl.arange(0, K2)
    pick = tl.load(picks_ptr + s, mask=s < k, other=-(1 << 63))
    if K2 <= 256:
        place = tl.sum((pick[None, :] > pick[:, None]).to(tl.int32), axis=1)
    else:
        pick = tl.sort(pick, descending=True)
        place = s
    value = as_float((pick >> 32).to(tl.int32), BF16)
    index = 0x7FFFFFFF - (pick & 0x7FFFFFFF)
    if RELU:
        # A NaN stays, for the caller to see.
        index = tl.where(value <= 0, -1, index)
        value = tl.where(value <= 0, 0.0, value)
    tl.store(values_ptr + row * k + place, value, mask=s < k)
    tl.store(indices_ptr + row * k + place, index, mask=s < k)


def fits(k: int, group_width: int) -> bool:
    return triton.next_power_of_2(k) * group_width <= MAX_CANDIDATES


def select(
    pre: Tensor,
    maxima: Tensor,
    k: int,
    width: int,
    relu: bool,
    values: Tensor,
    indices: Tensor,
    warps: int | None = None,
) -> None:
    """Fill `values (rows, k)` fp32 and `indices (rows, k)` int64 from one chunk of a product and its group maxima."""
    rows, n_groups = maxima.shape
    K2, NG2 = triton.next_power_of_2(k), triton.next_power_of_2(n_groups)
    groups = torch.empty((rows, K2), dtype=torch.int32, device=pre.device)
    picks = torch.empty((rows, K2), dtype=torch.int64, device=pre.device)
    widest = max(NG2, K2 * width)
    select_kernel[(rows,)](
        pre, maxima, groups, picks, values, indices, k, n_groups, pre.stride(0), maxima.stride(0),
        K2=K2, NG2=NG2, G=width, RELU=relu, num_warps=warps or (4 if widest <= 4096 else 8 if widest <= 8192 else 16),
    )  # fmt: skip
