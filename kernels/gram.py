"""atoms atoms^T on Hopper: half the tiles of a product are computed and each is stored twice, once transposed (Triton)."""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

ROWS, COLUMNS, DEPTH = 128, 256, 64
BAND = 8
"""Tiles run down bands of this many rows of tiles: the atoms that a wave of programs reads stay in L2."""


@triton.jit
def _store_both(part, row, col, mirrored, m, gram_desc):
    part = part.to(gram_desc.dtype)
    gram_desc.store([row, col], part)
    # A store past the last row is dropped by the copy engine; a branch here would keep the tile loop from being flattened.
    gram_desc.store([tl.where(mirrored, col, m), row], part.T)


@triton.jit
def gram_kernel(
    row_desc, col_desc, gram_desc, order_ptr, n_tiles, m, d,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0)
    done = start - PROGRAMS
    for tile in tl.range(start, n_tiles, PROGRAMS, flatten=True):
        row = tl.load(order_ptr + 2 * tile) * BM
        col = tl.load(order_ptr + 2 * tile + 1) * BN
        acc = tl.zeros((BM, BN), tl.float32)
        for step in range(tl.cdiv(d, BK)):
            a = row_desc.load([row, step * BK])
            b = col_desc.load([col, step * BK])
            acc = tl.dot(a, b.T, acc, input_precision="ieee")
        done += PROGRAMS
        row = tl.load(order_ptr + 2 * done) * BM
        col = tl.load(order_ptr + 2 * done + 1) * BN
        left, right = tl.split(tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1)))
        # A tile on the diagonal has its mirror image among the tiles that are computed.
        mirrored = col + BN <= row
        _store_both(left, row, col, mirrored, m, gram_desc)
        _store_both(right, row, col + BN // 2, mirrored, m, gram_desc)


@lru_cache(maxsize=8)
def _order(m: int, device: torch.device) -> Tensor:
    """(tile row, tile column) of every tile that touches or lies below the diagonal, band by band."""
    rows = torch.arange(-(-m // ROWS))
    columns = torch.arange(-(-m // COLUMNS))
    row, col = torch.meshgrid(rows, columns, indexing="ij")
    needed = col * COLUMNS < (row + 1) * ROWS
    row, col = row[needed], col[needed]
    rank = ((row // BAND) * len(columns) + col) * BAND + row % BAND
    return torch.stack([row, col], -1)[rank.argsort()].to(torch.int32).contiguous().to(device)


def symmetric_product(atoms: Tensor, dtype: torch.dtype, programs: int) -> Tensor:
    """(m, m) in a 16-bit dtype; m and d must be multiples of 8, as a TMA row is of 16 bytes."""
    m, d = atoms.shape
    gram = atoms.new_empty((m, m), dtype=dtype)
    order = _order(m, atoms.device)
    programs = min(programs, len(order))
    gram_kernel[(programs,)](
        TensorDescriptor.from_tensor(atoms, [ROWS, DEPTH]),
        TensorDescriptor.from_tensor(atoms, [COLUMNS, DEPTH]),
        TensorDescriptor.from_tensor(gram, [ROWS, COLUMNS // 2]),
        order, len(order), m, d,
        BM=ROWS, BN=COLUMNS, BK=DEPTH, PROGRAMS=programs, num_stages=3, num_warps=8,
    )  # fmt: skip
    return gram
