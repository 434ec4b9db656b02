"""Encoder products for CUDA: `(rows, m)` pre-activations of a chunk of rows, and the maximum of each group of columns.

On Hopper one persistent kernel does both: operands arrive by the tensor copy engine (TMA descriptors), and the epilogue
takes the group maxima from registers, so that selecting never reads the product back. Elsewhere, and for fp32, cuBLAS
multiplies and a second kernel reads the chunk once.
"""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

CHUNK_BYTES = 512 * 2**20
"""Extra memory that a call may take, whatever n and m."""


@dataclass(frozen=True)
class Tile:
    """Shape of the persistent kernel; the default was the best of those tried on an H100. fp32 output leaves 3 stages."""

    rows: int = 128
    columns: int = 256
    depth: int = 64
    stages: int = 4
    warps: int = 8
    band: int = 16


@triton.jit
def _tile_at(tile, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """Tiles in bands of GROUP_M rows: the weights of a band's columns are read once into L2."""
    per_band = GROUP_M * tiles_n
    first = (tile // per_band) * GROUP_M
    height = min(tiles_m - first, GROUP_M)
    return first + (tile % per_band) % height, (tile % per_band) // height


@triton.jit
def _write_part(
    part, row, col, rows, m, bias_ptr, pre_desc, max_ptr, stride_max,
    G: tl.constexpr, PRE: tl.constexpr, MAGNITUDE: tl.constexpr,
):  # fmt: skip
    BM: tl.constexpr = part.shape[0]
    BN: tl.constexpr = part.shape[1]
    cols = col + tl.arange(0, BN)
    # Columns past m become -inf: they lose against every real latent, ties included, for their index is higher.
    bias = tl.load(bias_ptr + cols, mask=cols < m, other=float("-inf"))
    pre = part + bias[None, :]
    if MAGNITUDE:
        pre = tl.where((cols < m)[None, :], tl.abs(pre), float("-inf"))
    if PRE:
        pre_desc.store([row, col], pre.to(pre_desc.dtype))
    # Rounding is monotone: the rounded maximum is the maximum of the rounded values.
    best = tl.max(tl.reshape(pre, (BM, BN // G, G)), axis=2)
    offs_m = row + tl.arange(0, BM)
    offs_g = col // G + tl.arange(0, BN // G)
    inside = (offs_m < rows)[:, None] & (offs_g < stride_max)[None, :]
    target = max_ptr + offs_m.to(tl.int64)[:, None] * stride_max + offs_g[None, :]
    tl.store(target, best.to(max_ptr.dtype.element_ty), mask=inside)


@triton.jit
def product_kernel(
    x_desc, w_desc, pre_desc, bias_ptr, max_ptr, row0, rows, m, d, stride_max,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, G: tl.constexpr, PRE: tl.constexpr, PROGRAMS: tl.constexpr,
    GROUP_M: tl.constexpr, MAGNITUDE: tl.constexpr,
):  # fmt: skip
    tiles_m = tl.cdiv(rows, BM)
    tiles_n = tl.cdiv(m, BN)
    start = tl.program_id(0)
    # The epilogue counts its tiles apart from the main loop, so that loads of the next tile may pass it.
    done = start - PROGRAMS
    for tile in tl.range(start, tiles_m * tiles_n, PROGRAMS, flatten=True):
        tile_m, tile_n = _tile_at(tile, tiles_m, tiles_n, GROUP_M)
        acc = tl.zeros((BM, BN), tl.float32)
        for step in range(tl.cdiv(d, BK)):
            a = x_desc.load([row0 + tile_m * BM, step * BK])
            b = w_desc.load([tile_n * BN, step * BK])
            acc = tl.dot(a, b.T, acc, input_precision="ieee")
        done += PROGRAMS
        tile_m, tile_n = _tile_at(done, tiles_m, tiles_n, GROUP_M)
        left, right = tl.split(tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1)))
        row, col = tile_m * BM, tile_n * BN
        _write_part(left, row, col, rows, m, bias_ptr, pre_desc, max_ptr, stride_max, G, PRE, MAGNITUDE)
        _write_part(right, row, col + BN // 2, rows, m, bias_ptr, pre_desc, max_ptr, stride_max, G, PRE, MAGNITUDE)


@triton.jit
def group_max_kernel(pre_ptr, max_ptr, stride_pre, stride_max, BLOCK: tl.constexpr, G: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    groups = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = groups < stride_max
    columns = groups[:, None] * G + tl.arange(0, G)[None, :]
    pre = tl.load(pre_ptr + row * stride_pre + columns, mask=inside[:, None], other=float("-inf"))
    best = tl.max(pre.to(tl.float32), axis=1)
    tl.store(max_ptr + row * stride_max + groups, best.to(max_ptr.dtype.element_ty), mask=inside)


def group_width(m: int) -> int:
    """Columns in a group: 16 (one 32-byte sector of bf16), more where a row would have over 16,384 groups."""
    width = 16
    while m > 16_384 * width:
        width *= 2
    return width


@cache
def capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@cache
def programs_on(device: torch.device) -> int:
    """One persistent program a multiprocessor; two in the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def fused(x: Tensor, W: Tensor) -> bool:
    """Whether the one-kernel product runs: Hopper or later (or the interpreter), 16-bit operands, aligned rows."""
    if x.is_cuda and (x.dtype == torch.float32 or capability(x.device) < (9, 0)):
        return False
    return all(
        t.is_contiguous() and t.stride(0) * t.element_size() % 16 == 0 and t.data_ptr() % 16 == 0 for t in (x, W)
    )


def chunk_rows(n: int, m: int, itemsize: int, scratch: int, programs: int, tile: Tile = Tile()) -> int:
    """Rows a chunk: as many as CHUNK_BYTES allow, in the split that leaves the fewest programs idle in last waves.

    A row takes its pre-activations, its maxima (`itemsize` bytes each) and `scratch` bytes of whoever reads them.
    """
    width = group_width(m)
    most = max(CHUNK_BYTES // (-(-m // width) * (width + 1) * itemsize + scratch), 1)
    if most < tile.rows:
        return most
    most = most // tile.rows * tile.rows

    def waves(rows: int) -> int:
        columns = -(-m // tile.columns)
        return sum(-(-(-(-min(rows, n - start) // tile.rows) * columns) // programs) for start in range(0, n, rows))

    fewest = -(-n // most)
    splits = {-(-n // chunks // tile.rows) * tile.rows for chunks in range(fewest, fewest + 3)}
    return min((rows for rows in splits if rows <= most), key=lambda rows: (waves(rows), -rows))


class Product:
    """Buffers for one call's chunks; `run` fills them for rows row0.. of x and returns (pre, maxima) views."""

    def __init__(
        self, x: Tensor, W: Tensor, bias: Tensor, dtype: torch.dtype, scratch: int = 0, tile: Tile = Tile()
    ) -> None:
        n, m = x.shape[0], W.shape[0]
        self.x, self.W, self.bias, self.tile = x, W, bias, tile
        self.width = group_width(m)
        self.n_groups = -(-m // self.width)
        self.fused = fused(x, W)
        self.programs = programs_on(x.device)
        self.rows = min(chunk_rows(n, m, dtype.itemsize, scratch, self.programs, tile), n)
        # Rows end on a multiple of 16 columns: a TMA row must be a multiple of 16 bytes.
        self.pre = x.new_empty((self.rows, self.n_groups * self.width), dtype=dtype)
        self.maxima = x.new_empty((self.rows, self.n_groups), dtype=dtype)
        if not self.fused:
            self.pre[:, m:] = float("-inf")

    def run(self, row0: int) -> tuple[Tensor, Tensor]:
        rows = min(self.rows, len(self.x) - row0)
        pre, maxima = self.pre[:rows], self.maxima[:rows]
        if self.fused:
            self._run_fused(row0, pre, maxima)
        else:
            self._run_cublas(row0, pre, maxima)
        return pre, maxima

    def _run_fused(self, row0: int, pre: Tensor, maxima: Tensor) -> None:
        tile, (m, d) = self.tile, self.W.shape
        tiles = -(-len(pre) // tile.rows) * -(-m // tile.columns)
        programs = min(self.programs, tiles)
        product_kernel[(programs,)](
            TensorDescriptor.from_tensor(self.x, [tile.rows, tile.depth]),
            TensorDescriptor.from_tensor(self.W, [tile.columns, tile.depth]),
            TensorDescriptor.from_tensor(pre, [tile.rows, tile.columns // 2]),
            self.bias, maxima, row0, len(pre), m, d, self.n_groups,
            BM=tile.rows, BN=tile.columns, BK=tile.depth, G=self.width, PRE=True, PROGRAMS=programs, GROUP_M=tile.band,
            MAGNITUDE=False, num_stages=tile.stages if pre.dtype.itemsize == 2 else 3, num_warps=tile.warps,
        )  # fmt: skip

    def _run_cublas(self, row0: int, pre: Tensor, maxima: Tensor) -> None:
        m, x = len(self.W), self.x[row0 : row0 + len(pre)]
        if pre.dtype == x.dtype:
            torch.addmm(self.bias.to(x.dtype), x, self.W.T, out=pre[:, :m])
        else:
            torch.mm(x, self.W.T, out_dtype=pre.dtype, out=pre[:, :m]).add_(self.bias)
        block = 64
        group_max_kernel[(len(pre), triton.cdiv(self.n_groups, block))](
            pre, maxima, pre.stride(0), self.n_groups, BLOCK=block, G=self.width
        )


def group_maxima(x: Tensor, W: Tensor, magnitude: bool, tile: Tile = Tile()) -> Tensor:
    """(n, m / `group_width(m)`) fp32: the largest of x W^T (of its magnitude, if asked) in each group of columns.

    The product itself is written nowhere. For operands that `fused` accepts.
    """
    (n, d), m = x.shape, len(W)
    width = group_width(m)
    maxima = torch.empty((n, -(-m // width)), dtype=torch.float32, device=x.device)
    rows = TensorDescriptor.from_tensor(x, [tile.rows, tile.depth])
    programs = min(programs_on(x.device), -(-n // tile.rows) * -(-m // tile.columns))
    product_kernel[(programs,)](
        rows, TensorDescriptor.from_tensor(W, [tile.columns, tile.depth]), rows,
        torch.zeros(m, device=x.device), maxima, 0, n, m, d, maxima.shape[1],
        BM=tile.rows, BN=tile.columns, BK=tile.depth, G=width, PRE=False, PROGRAMS=programs, GROUP_M=tile.band,
        MAGNITUDE=magnitude, num_stages=tile.stages, num_warps=tile.warps,
    )  # fmt: skip
    return maxima
