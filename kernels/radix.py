"""The k-th largest of a whole tensor by radix selection: one pass a byte of the key, nothing sorted (Triton)."""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from sparse_rep.kernels.select import as_float, ordered
from torch import Tensor


@triton.jit
def histogram_kernel(flat_ptr, prefix_ptr, counts_ptr, size, shift, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr):
    """Histogram of one byte of the keys that agree with the prefix in all higher bytes. Integer sums: any order agrees.

    Keys are shifted to start at 0, so that the top byte is like the others.
    """
    LOWEST: tl.constexpr = -(1 << 15) if flat_ptr.dtype.element_ty == tl.bfloat16 else -(1 << 31)
    prefix = tl.load(prefix_ptr)
    counts = tl.zeros((256,), tl.int32)
    for start in range(tl.program_id(0) * BLOCK, size, PROGRAMS * BLOCK):
        offs = start + tl.arange(0, BLOCK).to(tl.int64)
        key = ordered(tl.load(flat_ptr + offs, mask=offs < size, other=0.0)).to(tl.int64) - LOWEST
        agrees = (offs < size) & ((key >> (shift + 8)) == (prefix >> (shift + 8)))
        counts += tl.histogram(((key >> shift) & 0xFF).to(tl.int32), 256, mask=agrees)
    tl.atomic_add(counts_ptr + tl.arange(0, 256), counts)


@triton.jit
def decode_key_kernel(key_ptr, out_ptr):
    BF16: tl.constexpr = out_ptr.dtype.element_ty == tl.bfloat16
    tl.store(out_ptr, as_float(tl.load(key_ptr).to(tl.int32), BF16).to(out_ptr.dtype.element_ty))


def kth_largest(flat: Tensor, keep: int) -> Tensor:
    """The keep-th largest entry (1-based), a tensor of one element on the same device; no device synchronisation."""
    bits = 16 if flat.dtype == torch.bfloat16 else 32
    device = flat.device
    prefix = torch.zeros((), dtype=torch.int64, device=device)
    remaining = torch.full((), keep, dtype=torch.int64, device=device)
    programs = 8 * (torch.cuda.get_device_properties(device).multi_processor_count if flat.is_cuda else 1)
    for shift in range(bits - 8, -1, -8):
        counts = torch.zeros(256, dtype=torch.int32, device=device)
        histogram_kernel[(programs,)](flat, prefix, counts, flat.numel(), shift, PROGRAMS=programs, BLOCK=1024)
        from_top = counts.flip(0).cumsum(0)
        place = (from_top < remaining).sum()
        digit = 255 - place
        remaining = remaining - (from_top[place] - counts[digit])
        prefix = prefix + (digit << shift)
    out = torch.empty((), dtype=flat.dtype, device=device)
    decode_key_kernel[(1,)](prefix - (1 << (bits - 1)), out)
    return out
