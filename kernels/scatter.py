"""Weight gradients of sparse codes by a sorted reverse index: deterministic, no atomics, no (n * k, d) buffer (Triton).

A latent's gradient is a sum over the tokens that used it. Sorting the n * k uses by latent turns that into sums of
consecutive entries. In the same pass, with the latent's own weights at hand, each use's dot product with its token's row
falls out: the gradient of the value. Popular latents are cut into parts of PART uses so that no program works alone.
"""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

PART = 256
"""Uses of one latent that one program sums."""


@dataclass(frozen=True)
class ReverseIndex:
    """Uses sorted by latent: those of latent l are `entries[offsets[l]:offsets[l + 1]]`, each token * k + slot."""

    entries: Tensor
    offsets: Tensor
    extra_offsets: Tensor
    extra_latent: Tensor

    @classmethod
    def of(cls, indices: Tensor, m: int) -> ReverseIndex:
        """From padded indices (n, k); empty slots (-1) are left out. No device synchronisation."""
        latents, entries = indices.reshape(-1).to(torch.int32).sort(stable=True)
        bounds = torch.arange(m + 1, dtype=torch.int32, device=indices.device)
        offsets = torch.searchsorted(latents, bounds, out_int32=True)
        extra = ((offsets.diff() + (PART - 1)) // PART - 1).clamp_(min=0)
        extra_offsets = torch.nn.functional.pad(extra.cumsum(0, dtype=torch.int32), (1, 0))
        slots = torch.arange(len(entries) // PART, dtype=torch.int32, device=indices.device)
        extra_latent = torch.searchsorted(extra_offsets[1:].contiguous(), slots, right=True, out_int32=True)
        return cls(entries.to(torch.int32), offsets, extra_offsets, extra_latent)


@triton.jit
def _sum_uses(
    acc, latent, begin, end, columns, inside, n_entries, block, values_ptr, entries_ptr, rows_ptr, weights_ptr, dots_ptr,
    k, d, DOTS: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    weights = tl.zeros(columns.shape, tl.float32)
    total = tl.zeros((BLOCK_E,), tl.float32)
    if DOTS:
        weights = tl.load(weights_ptr + latent * d + columns, mask=inside, other=0.0).to(tl.float32)
    for start in range(begin, end, BLOCK_E):
        use = start + tl.arange(0, BLOCK_E)
        entry = tl.load(entries_ptr + use, mask=use < end, other=0)
        value = tl.load(values_ptr + entry, mask=use < end, other=0.0).to(tl.float32)
        rows = tl.load(
            rows_ptr + (entry // k).to(tl.int64)[:, None] * d + columns[None, :],
            mask=(use < end)[:, None] & inside[None, :],
            other=0.0,
        ).to(tl.float32)
        acc += tl.sum(value[:, None] * rows, axis=0)
        total += value
        if DOTS:
            dots = tl.sum(weights[None, :] * rows, axis=1)
            tl.store(dots_ptr + block.to(tl.int64) * n_entries + entry, dots, mask=use < end)
    return acc, tl.sum(total, axis=0)


@triton.jit
def extra_parts_kernel(
    values_ptr, entries_ptr, offsets_ptr, extra_offsets_ptr, extra_latent_ptr, rows_ptr, weights_ptr, dots_ptr, parts_ptr,
    part_totals_ptr, m, k, d, n_slots, n_entries,
    DOTS: tl.constexpr, PART: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    slot, block = tl.program_id(0) % n_slots, tl.program_id(0) // n_slots
    latent = tl.load(extra_latent_ptr + slot).to(tl.int64)
    if latent < m:
        part = 1 + slot - tl.load(extra_offsets_ptr + latent)
        begin = tl.load(offsets_ptr + latent) + part * PART
        end = min(begin + PART, tl.load(offsets_ptr + latent + 1))
        columns = block * BLOCK_D + tl.arange(0, BLOCK_D)
        inside = columns < d
        acc, total = _sum_uses(
            tl.zeros((BLOCK_D,), tl.float32), latent, begin, end, columns, inside, n_entries, block,
            values_ptr, entries_ptr, rows_ptr, weights_ptr, dots_ptr, k, d, DOTS, BLOCK_E,
        )  # fmt: skip
        tl.store(parts_ptr + slot.to(tl.int64) * d + columns, acc, mask=inside)
        tl.store(part_totals_ptr + slot, total)


@triton.jit
def latent_sum_kernel(
    values_ptr, entries_ptr, offsets_ptr, extra_offsets_ptr, rows_ptr, weights_ptr, dots_ptr, parts_ptr, part_totals_ptr,
    shift_ptr, squares_ptr, along_ptr, totals_ptr, out_ptr, m, k, d, n_entries, per_member,
    DOTS: tl.constexpr, ADD: tl.constexpr, SUMS: tl.constexpr, SHIFT: tl.constexpr, PART: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    latent = (tl.program_id(0) % m).to(tl.int64)
    block = tl.program_id(0) // m
    columns = block * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = columns < d
    begin, stop = tl.load(offsets_ptr + latent), tl.load(offsets_ptr + latent + 1)
    out = out_ptr + latent * d + columns
    acc, total = _sum_uses(
        tl.zeros((BLOCK_D,), tl.float32), latent, begin, min(begin + PART, stop), columns, inside, n_entries, block,
        values_ptr, entries_ptr, rows_ptr, weights_ptr, dots_ptr, k, d, DOTS, BLOCK_E,
    )  # fmt: skip
    for slot in range(tl.load(extra_offsets_ptr + latent), tl.load(extra_offsets_ptr + latent + 1)):
        acc += tl.load(parts_ptr + tl.cast(slot, tl.int64) * d + columns, mask=inside, other=0.0)
        total += tl.load(part_totals_ptr + slot)
    if SHIFT:
        acc -= total * tl.load(shift_ptr + (latent // per_member) * d + columns, mask=inside, other=0.0)
    if ADD:
        acc += tl.load(out, mask=inside, other=0.0).to(tl.float32)
    if SUMS:
        tl.store(squares_ptr + tl.program_id(0), tl.sum(acc * acc, axis=0))
        tl.store(totals_ptr + tl.program_id(0), total)
        if DOTS:
            weights = tl.load(weights_ptr + latent * d + columns, mask=inside, other=0.0).to(tl.float32)
            tl.store(along_ptr + tl.program_id(0), tl.sum(acc * weights, axis=0))
    tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class RowSums:
    """What a latent's gradient row says while it is in registers: three numbers a latent, (m,) fp32."""

    squares: Tensor
    """Its squared norm."""
    along: Tensor
    """Its dot product with the latent's weights (zero where none were given)."""
    totals: Tensor
    """The sum of the values of its uses: the gradient of an encoder's bias."""


def latent_sum(
    index: ReverseIndex, values: Tensor, rows: Tensor, k: int, out: Tensor,
    weights: Tensor | None = None,
    add: bool = False,
) -> Tensor | None:  # fmt: skip
    """out[l] = sum over the uses of l of values[use] * rows[use // k]; with weights, also <weights[l], rows[use // k]>.

    `values` is (n, k) and `rows` (n, d), or k = 1 and one row a use. `out (m, d)` is overwritten, or added to with `add`.
    The dot products come back as (n, k) fp32, unwritten (zero) for empty slots.
    """
    return _latent_sum(index, values, rows, k, out, weights, add, None, sums=False)[0]


def latent_gradient(
    index: ReverseIndex, values: Tensor, rows: Tensor, k: int, out: Tensor,
    weights: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor | None, RowSums]:  # fmt: skip
    """`latent_sum` that also says what the optimiser's clipping wants to know of each row.

    `shift (B, d)`: rows are taken about it, one for each of the B equal spans of latents. `k` may be a multiple of the
    values' own: uses are numbered along `values`, and a row may serve several members' slots.
    """
    dots, sums = _latent_sum(index, values, rows, k, out, weights, False, shift, sums=True)
    assert sums is not None
    return dots, sums


def _latent_sum(
    index: ReverseIndex, values: Tensor, rows: Tensor, k: int, out: Tensor, weights: Tensor | None, add: bool,
    shift: Tensor | None, sums: bool,
) -> tuple[Tensor | None, RowSums | None]:  # fmt: skip
    m, d = out.shape
    # Two warps, four rows: a thread holds the same columns of each row, so summing rows crosses no thread.
    block_d = min(max(triton.next_power_of_2(d), 16), 512)
    blocks, n_entries, n_slots = triton.cdiv(d, block_d), index.entries.numel(), index.extra_latent.numel()
    wide = {"dtype": torch.float32, "device": out.device}
    dots = None if weights is None else torch.zeros((blocks, *values.shape), **wide)
    parts, part_totals = torch.empty((n_slots, d), **wide), torch.empty(n_slots, **wide)
    shared = {"DOTS": weights is not None, "PART": PART, "BLOCK_E": 4, "BLOCK_D": block_d, "num_warps": 2}
    if n_slots:
        extra_parts_kernel[(n_slots * blocks,)](
            values, index.entries, index.offsets, index.extra_offsets, index.extra_latent, rows, weights, dots, parts,
            part_totals, m, k, d, n_slots, n_entries, **shared,
        )  # fmt: skip
    squares, totals = (torch.empty((blocks, m), **wide) for _ in range(2)) if sums else (parts, parts)
    along = torch.empty((blocks, m), **wide) if sums and weights is not None else squares
    latent_sum_kernel[(m * blocks,)](
        values, index.entries, index.offsets, index.extra_offsets, rows, weights, dots, parts, part_totals,
        shift, squares, along, totals, out, m, k, d, n_entries, m if shift is None else m // len(shift),
        ADD=add, SUMS=sums, SHIFT=shift is not None, **shared,
    )  # fmt: skip
    if dots is not None:
        dots = dots[0] if blocks == 1 else dots.sum(0)
    if not sums:
        return dots, None
    along = along.sum(0) if weights is not None else torch.zeros(m, **wide)
    return dots, RowSums(squares.sum(0), along, totals[0])


def bias_sum(index: ReverseIndex, values: Tensor) -> Tensor:
    """Sum of the values of each latent's uses, (m,) fp32: the gradient of an encoder's bias."""
    ordered = values.reshape(-1)[index.entries.long()].float()
    # unsafe: the offsets are ours, and checking them would wait for the device.
    return torch.segment_reduce(ordered, "sum", offsets=index.offsets.long(), unsafe=True)
