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
from sparse_rep.kernels.product import Product
from torch import Tensor

BLOCK_GROUPS = 64


@triton.jit
def active_kernel(
    pre_ptr,
    max_ptr,
    cut_ptr,
    group_cut_ptr,
    shift_ptr,
    counts_ptr,
    ends_ptr,
    latents_ptr,
    values_ptr,
    n_groups,
    stride_pre,
    BLOCK: tl.constexpr,
    G: tl.constexpr,
    FILL: tl.constexpr,
):
    """Count a row's active entries or, with FILL, write them behind those of the rows before."""
    row = tl.program_id(0).to(tl.int64)
    found = tl.full((), 0, tl.int64)
    if FILL:
        found = tl.load(ends_ptr + row) - tl.load(counts_ptr + row)
    entry = tl.arange(0, BLOCK * G)
    for start in range(0, n_groups, BLOCK):
        group = start + tl.arange(0, BLOCK)
        inside = group < n_groups
        best = tl.load(max_ptr + row * n_groups + group, mask=inside, other=float("-inf"))
        # "not <=": a NaN is active, so that the caller sees it.
        hit = inside & ~(best <= tl.load(group_cut_ptr + group, mask=inside, other=0.0))
        if tl.sum(hit.to(tl.int32), axis=0) > 0:
            column = start * G + entry
            wanted = tl.reshape(tl.broadcast_to(hit[:, None], (BLOCK, G)), (BLOCK * G,))
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
    """(rows, latents, values) of every pre-activation above its threshold, sorted; two device synchronisations a chunk."""
    shift = threshold.float().clamp(min=0)
    # A column whose threshold is infinite has shift inf and so pre-activation -inf: never active.
    product = Product(x, W_enc, b_enc.float() - shift, torch.float32)
    columns = product.n_groups * product.width
    cut = torch.nn.functional.pad(threshold.float().clamp(max=0), (0, columns - len(W_enc)))
    shift = torch.nn.functional.pad(shift, (0, columns - len(W_enc)))
    group_cut = cut.view(-1, product.width).amin(-1)
    parts = [_empty(x)]
    for row0 in range(0, len(x), product.rows):
        pre, maxima = product.run(row0)
        counts = torch.empty(len(pre), dtype=torch.int64, device=x.device)

        def scan(
            fill: bool, ends: Tensor, latents: Tensor, values: Tensor, pre=pre, maxima=maxima, counts=counts
        ) -> None:
            active_kernel[(len(pre),)](
                pre, maxima, cut, group_cut, shift, counts, ends, latents, values, product.n_groups, pre.stride(0),
                BLOCK=BLOCK_GROUPS, G=product.width, FILL=fill, num_warps=4,
            )  # fmt: skip

        scan(False, counts, counts, pre)
        ends = counts.cumsum(0)
        total = int(ends[-1])
        latents = torch.empty(total, dtype=torch.int64, device=x.device)
        values = torch.empty(total, dtype=torch.float32, device=x.device)
        scan(True, ends, latents, values)
        rows = torch.arange(row0, row0 + len(pre), device=x.device).repeat_interleave(counts, output_size=total)
        parts.append((rows, latents, values))
    rows, latents, values = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return rows, latents, values


def _empty(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    none = torch.empty(0, dtype=torch.int64, device=x.device)
    return none, none, torch.empty(0, dtype=torch.float32, device=x.device)
