"""The k largest of each row from its groups' maxima: exact, sorted, ties to the lowest index (Triton).

All k largest of a row lie in the k groups with the largest maxima: an element of any other group is beaten by one element
of each of those. Groups are runs of neighbouring columns and group ties go to the lower group, so equal values keep the
order of their indices. A row is one program: bisect for the k-th largest maximum, list the k groups, do the same among
their k * G elements, and order the k that remain by counting who is ahead of whom.
"""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

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
def take(key, k, low, high):
    """Mask of the k largest keys, the earlier position first among equals; each one's place; a bound for the next level.

    At least k keys are `low` or more and none is above `high`; the bound is the k-th largest, or less where none ties it.
    """
    reached = tl.full((), -1, tl.int32)
    while (low < high) & (reached != k):
        middle = (low | high) - ((low ^ high) >> 1)  # their mean rounded up, without overflow
        count = tl.sum((key >= middle).to(tl.int32), axis=0)
        if count >= k:
            low = middle
            reached = count
        else:
            high = middle - 1
    chosen = key >= low
    if reached != k:
        equal = (key == low).to(tl.int32)
        room = k - tl.sum((key > low).to(tl.int32), axis=0)
        chosen = (key > low) | ((equal > 0) & (tl.cumsum(equal, axis=0) <= room))
    return chosen, tl.cumsum(chosen.to(tl.int32), axis=0) - 1, low


@triton.jit
def select_kernel(
    pre_ptr, max_ptr, lists_ptr, picks_ptr, values_ptr, indices_ptr, k, n_groups, stride_pre, stride_max,
    K2: tl.constexpr, NG2: tl.constexpr, G: tl.constexpr, S: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    BF16: tl.constexpr = pre_ptr.dtype.element_ty == tl.bfloat16
    LOWEST: tl.constexpr = -0x8000 if BF16 else -0x80000000
    HIGHEST: tl.constexpr = 0x7FFF if BF16 else 0x7FFFFFFF
    row = tl.program_id(0).to(tl.int64)
    max_ptr += row * stride_max
    pre_ptr += row * stride_pre
    supers_ptr = lists_ptr + row * 2 * K2
    groups_ptr = supers_ptr + K2
    picks_ptr += row * K2
    wanted = min(k, n_groups)

    if S > 1:
        # Maxima of S maxima first: fewer keys to bisect, then only the S groups under each of the best.
        g = tl.arange(0, NG2)
        maxima = tl.load(max_ptr + g, mask=g < n_groups, other=float("-inf"))
        best = tl.max(tl.reshape(maxima.to(tl.float32), (NG2 // S, S)), axis=1)
        if BF16:
            best = best.to(tl.bfloat16)
        n_supers = tl.cdiv(n_groups, S)
        some = min(k, n_supers)
        s = tl.arange(0, NG2 // S)
        key = ordered(best)
        low = tl.min(tl.where(s < n_supers, key, HIGHEST), axis=0)
        key = tl.where(s < n_supers, key, LOWEST)
        high = tl.max(key, axis=0)
        chosen, place, low = take(key, some, low, high)
        tl.store(supers_ptr + place, s, mask=chosen)
        tl.debug_barrier()
        c = tl.arange(0, K2 * S)
        group = tl.load(supers_ptr + c // S, mask=c < some * S, other=0) * S + c % S
        inside = (c < some * S) & (group < n_groups)
        if some < k:
            low = tl.full((), LOWEST + 1, tl.int32)
    else:
        group = tl.arange(0, NG2)
        inside = group < n_groups
        low = tl.full((), LOWEST + 1, tl.int32)
        high = tl.full((), HIGHEST, tl.int32)
    key = ordered(tl.load(max_ptr + group, mask=inside, other=0.0))
    if S == 1:
        low = tl.min(tl.where(inside, key, HIGHEST), axis=0)
    key = tl.where(inside, key, LOWEST)
    if S == 1:
        high = tl.max(key, axis=0)
    chosen, place, low = take(key, wanted, low, high)
    tl.store(groups_ptr + place, group, mask=chosen)
    tl.debug_barrier()

    c = tl.arange(0, K2 * G)
    inside = c < wanted * G
    column = tl.load(groups_ptr + c // G, mask=inside, other=0) * G + c % G
    key = tl.where(inside, ordered(tl.load(pre_ptr + column, mask=inside, other=0.0)), LOWEST)
    if wanted < k:
        low = tl.full((), LOWEST + 1, tl.int32)
    chosen, place, low = take(key, k, low, high)
    # One integer holds value and position: larger is better, no two are equal.
    if BF16:  # noqa: SIM108 (Triton compiles one branch only in this form)
        packed = ((key + 0x8000) << 15) | (0x7FFF - c)
    else:
        packed = (key.to(tl.int64) << 32) | (0x7FFF - c).to(tl.int64)
    tl.store(picks_ptr + place, packed, mask=chosen)
    tl.debug_barrier()

    slot = tl.arange(0, K2)
    pick = tl.load(picks_ptr + slot, mask=slot < k, other=-1 if BF16 else -(1 << 63))
    if K2 <= 256:
        place = tl.sum((pick[None, :] > pick[:, None]).to(tl.int32), axis=1)
    else:
        pick = tl.sort(pick, descending=True)
        place = slot
    position = 0x7FFF - (pick & 0x7FFF).to(tl.int32)
    key = (pick >> 15) - 0x8000 if BF16 else (pick >> 32).to(tl.int32)
    value = as_float(key, BF16)
    index = tl.load(groups_ptr + position // G, mask=slot < k, other=0).to(tl.int64) * G + position % G
    if RELU:
        # A NaN stays, for the caller to see.
        index = tl.where(value <= 0, -1, index)
        value = tl.where(value <= 0, 0.0, value)
    tl.store(values_ptr + row * k + place, value, mask=slot < k)
    tl.store(indices_ptr + row * k + place, index, mask=slot < k)


def fits(k: int, group_width: int) -> bool:
    return triton.next_power_of_2(k) * group_width <= MAX_CANDIDATES


def scratch_bytes(k: int, dtype: torch.dtype) -> int:
    """What `select` allocates a row: two lists of k groups, and k picks as wide as a value and a position."""
    return triton.next_power_of_2(k) * (8 + 2 * dtype.itemsize)


def select(
    pre: Tensor, maxima: Tensor, k: int, width: int, relu: bool, values: Tensor, indices: Tensor,
    warps: int | None = None, supers: int | None = None,
) -> None:  # fmt: skip
    """Fill `values (rows, k)` fp32 and `indices (rows, k)` int64 from one chunk of a product and its group maxima."""
    rows, n_groups = maxima.shape
    K2, NG2 = triton.next_power_of_2(k), triton.next_power_of_2(n_groups)
    lists = torch.empty((rows, 2 * K2), dtype=torch.int32, device=pre.device)
    bits = torch.int32 if pre.dtype == torch.bfloat16 else torch.int64
    picks = torch.empty((rows, K2), dtype=bits, device=pre.device)
    S = supers or (8 if NG2 >= 8 * K2 else 1)
    widest = max(K2 * width, NG2 // 2 if S > 1 else NG2)
    select_kernel[(rows,)](
        pre, maxima, lists, picks, values, indices, k, n_groups, pre.stride(0), maxima.stride(0),
        K2=K2, NG2=NG2, G=width, S=S, RELU=relu, num_warps=warps or min(max(widest // 1024, 1), 16),
    )  # fmt: skip
