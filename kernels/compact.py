"""Active entries of a thresholded product as sorted triples, by the product with group maxima (Triton).

The threshold's positive part goes into the bias, so that a group's maximum says whether any of its columns is active:
only such groups are read back. What is left of the threshold (its negative part) is compared column by column.
"""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_rep.kernels.product import Product, group_width


@triton.jit
def list_groups_kernel(max_ptr, group_cut_ptr, lists_ptr, lengths_ptr, n_groups, BLOCK: tl.constexpr):
    """The groups of a row that hold an active entry, in order."""
    row = tl.program_id(0).to(tl.int64)
    found = tl.full((), 0, tl.int32)
    for start in range(0, n_groups, BLOCK):
        group = start + tl.arange(0, BLOCK)
        inside = group < n_groups
        best = tl.load(max_ptr + row * n_groups + group, mask=inside, other=float("-inf"))
        # "not <=": a NaN is active, so that the caller sees it.
        hit = inside & ~(best <= tl.load(group_cut_ptr + group, mask=inside, other=0.0))
        place = tl.cumsum(hit.to(tl.int32), axis=0)
        tl.store(lists_ptr + row * n_groups + found + place - 1, group, mask=hit)
        found += tl.max(place, axis=0)
    tl.store(lengths_ptr + row, found)


@triton.jit
def active_kernel(
    pre_ptr, lists_ptr, lengths_ptr, cut_ptr, shift_ptr, counts_ptr, ends_ptr, latents_ptr, values_ptr,
    n_groups, stride_pre, BLOCK: tl.constexpr, G: tl.constexpr, FILL: tl.constexpr,
):  # fmt: skip
    """Count a row's active entries or, with FILL, write them behind those of the rows before."""
    row = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths_ptr + row)
    found = tl.full((), 0, tl.int64)
    if FILL:
        found = tl.load(ends_ptr + row) - tl.load(counts_ptr + row)
    entry = tl.arange(0, BLOCK * G)
    for start in range(0, length, BLOCK):
        listed = start + entry // G
        wanted = listed < length
        column = tl.load(lists_ptr + row * n_groups + listed, mask=wanted, other=0) * G + entry % G
        pre = tl.load(pre_ptr + row * stride_pre + column, mask=wanted, other=float("-inf"))
        active = wanted & ~(pre <= tl.load(cut_ptr + column, mask=wanted, other=0.0))
        place = tl.cumsum(active.to(tl.int32), axis=0)
        if FILL:
            value = pre + tl.load(shift_ptr + column, mask=active, other=0.0)
            tl.store(latents_ptr + found + place - 1, column.to(tl.int64), mask=active)
            tl.store(values_ptr + found + place - 1, value, mask=active)
        found += tl.max(place, axis=0)
    if not FILL:
        tl.store(counts_ptr + row, found)


def active_entries(x: Tensor, W_enc: Tensor, b_enc: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, latents, values) of every pre-activation above its threshold, sorted; one device synchronisation a chunk."""
    shift = threshold.float().clamp(min=0)
    # A column whose threshold is infinite has shift inf and so pre-activation -inf: never active.
    # A row's list of groups comes to at most one 32-bit number for each.
    scratch = 4 * -(-len(W_enc) // group_width(len(W_enc)))
    product = Product(x, W_enc, b_enc.float() - shift, torch.float32, scratch)
    padding = (0, product.n_groups * product.width - len(W_enc))
    cut = torch.nn.functional.pad(threshold.float().clamp(max=0), padding)
    shift = torch.nn.functional.pad(shift, padding)
    group_cut = cut.view(-1, product.width).amin(-1)
    parts = [_empty(x)]
    for row0 in range(0, len(x), product.rows):
        pre, maxima = product.run(row0)
        parts.append(_compact(pre, maxima, group_cut, cut, shift, row0, product.width))
    rows, latents, values = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return rows, latents, values


def _compact(
    pre: Tensor, maxima: Tensor, group_cut: Tensor, cut: Tensor, shift: Tensor, row0: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    (n, n_groups), device = maxima.shape, pre.device
    lists = torch.empty((n, n_groups), dtype=torch.int32, device=device)
    lengths = torch.empty(n, dtype=torch.int32, device=device)
    list_groups_kernel[(n,)](maxima, group_cut, lists, lengths, n_groups, BLOCK=1024, num_warps=4)
    counts = torch.empty(n, dtype=torch.int64, device=device)
    sizes = {"BLOCK": max(1024 // width, 1), "G": width, "num_warps": 4}
    shared = (pre, lists, lengths, cut, shift, counts)
    active_kernel[(n,)](*shared, counts, counts, pre, n_groups, pre.stride(0), FILL=False, **sizes)
    ends = counts.cumsum(0)
    total = int(ends[-1])
    latents = torch.empty(total, dtype=torch.int64, device=device)
    values = torch.empty(total, dtype=torch.float32, device=device)
    active_kernel[(n,)](*shared, ends, latents, values, n_groups, pre.stride(0), FILL=True, **sizes)
    rows = torch.arange(row0, row0 + n, device=device).repeat_interleave(counts, output_size=total)
    return rows, latents, values


def _empty(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    none = torch.empty(0, dtype=torch.int64, device=x.device)
    return none, none, torch.empty(0, dtype=torch.float32, device=x.device)
