"""Matching pursuit by the Gram matrix, one program a token with its correlations in registers, and its backward (Triton).

A step reads one Gram row: n * k * m elements in all, which is what the time goes into. While one token searches its
registers another must be loading, so a token takes no more of them than lets two or three live on a multiprocessor.
Correlations are held in two pieces, a power of two and a smaller one that covers the rest: a block must be a power of two,
and 24,576 is not. Within a piece the columns are spread over threads and the rows lie in one: the search for the best
correlation runs within threads as the Gram row arrives, and one reduction over threads ends it.
"""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_rep.kernels.pursuit import fp32_sums

MAX_ATOMS = 32_768
"""Correlations that one program can hold in registers."""

NEAR_TIE = 2.0**-12
"""Correlations closer than this share of the best are computed anew: a few times what the Gram matrix's rounding can move
them. On random tokens that is one step in two hundred; at twice and half of it the same picks came out."""

AT_ONCE = 4
"""Atoms whose rows are asked for together when a residual is built again: one at a time, their latency is what it costs."""

BACKWARD_BYTES = 256 * 2**20
"""Buffer of the backward's per-use rows; tokens are taken in chunks that fit."""


@triton.jit
def _earlier_best(score_a, code_a, score_b, code_b):
    keep = score_a >= score_b
    return tl.where(keep, score_a, score_b), tl.where(keep, code_a, code_b)


@triton.jit
def _score_and_code(c, index, SIGNED: tl.constexpr):
    """What is searched for the largest, and twice the atom's index plus the sign, so that the value can be told from it."""
    if SIGNED:
        return tl.abs(c), index * 2 | (c < 0).to(tl.int32)
    return c, index * 2


@triton.jit
def _best_by_column(c, index, SIGNED: tl.constexpr):
    """Down the rows of a piece, which lie in one thread: the best score of each column and its code, earlier rows first."""
    score, code = _score_and_code(c, index, SIGNED)
    return tl.reduce((score, code), 0, _earlier_best)


@triton.jit
def _pack(score, code):
    """Score and code as one integer: larger is better, the lower code among equals; 0 where the score is not positive."""
    bits = score.to(tl.int32, bitcast=True).to(tl.int64) << 32
    return tl.where(score > 0, bits | (0x7FFFFFFF - code).to(tl.int64), 0)


@triton.jit
def _next_near(c, index, after, floor, SIGNED: tl.constexpr):
    """The lowest atom past `after` whose score is above `floor`."""
    score = tl.abs(c) if SIGNED else c
    return tl.min(tl.min(tl.where((score > floor) & (index > after), index, 0x7FFFFFFF), axis=0), axis=0)


@triton.jit
def _top_two(first_a, second_a, first_b, second_b):
    return tl.maximum(first_a, first_b), tl.maximum(tl.minimum(first_a, first_b), tl.maximum(second_a, second_b))


@triton.jit
def _two_best(best):
    """Of the best of each column; the second best of all is missed where it lies in the best one's column."""
    return tl.reduce((best, tl.zeros_like(best)), 0, _top_two)


@triton.jit
def _score(pick):
    return (pick >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def pursuit_kernel(
    corr_ptr, gram_ptr, x_ptr, atoms_ptr, norm2_ptr, values_ptr, indices_ptr, norms_ptr, k, m, d, tol,
    R1: tl.constexpr, R2: tl.constexpr, C: tl.constexpr, D2: tl.constexpr, K2: tl.constexpr,
    SIGNED: tl.constexpr, CARRY: tl.constexpr, NEAR: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    corr_ptr += row * m
    columns = tl.arange(0, C)[None, :]
    first = tl.arange(0, R1)[:, None] * C + columns
    # Past the last atom correlations are 0: never above 0, so never chosen.
    c1 = tl.load(corr_ptr + first, mask=first < m, other=0.0, eviction_policy="evict_first").to(tl.float32)
    best = _pack(*_best_by_column(c1, first, SIGNED))
    if R2 > 0:
        second = R1 * C + tl.arange(0, R2)[:, None] * C + columns
        c2 = tl.load(corr_ptr + second, mask=second < m, other=0.0, eviction_policy="evict_first").to(tl.float32)
        best = tl.maximum(best, _pack(*_best_by_column(c2, second, SIGNED)))
    pick, second_best = _two_best(best)
    norm2 = tl.load(norm2_ptr + row)
    features = tl.arange(0, D2)
    if CARRY:
        residual = tl.load(x_ptr + row * d + features, mask=features < d, other=0.0).to(tl.float32)
    step = tl.full((), 0, tl.int32)
    alive = (tl.sqrt(norm2) > tol) & (pick > 0)
    while (step < k) & alive:
        if not CARRY:
            floor = _score(pick) * (1 - NEAR)
            if _score(second_best) > floor:
                # x minus the decoded prefix, from the picks that this program has stored.
                tl.debug_barrier()
                left = tl.load(x_ptr + row * d + features, mask=features < d, other=0.0).to(tl.float32)
                for start in range(0, step, AT_ONCE):
                    for ahead in tl.static_range(AT_ONCE):
                        there = start + ahead < step
                        used = tl.load(indices_ptr + row * k + start + ahead, mask=there, other=0)
                        weight = tl.load(values_ptr + row * k + start + ahead, mask=there, other=0.0)
                        a = tl.load(atoms_ptr + used * d + features, mask=features < d, other=0.0)
                        left -= weight * a.to(tl.float32)
                pick = tl.full((), 0, tl.int64)
                candidate = _next_near(c1, first, -1, floor, SIGNED)
                if R2 > 0:
                    candidate = tl.minimum(candidate, _next_near(c2, second, -1, floor, SIGNED))
                while candidate < 0x7FFFFFFF:
                    a = tl.load(atoms_ptr + candidate.to(tl.int64) * d + features, mask=features < d, other=0.0)
                    exact = tl.sum(a.to(tl.float32) * left, axis=0)
                    pick = tl.maximum(pick, _pack(*_score_and_code(exact, candidate, SIGNED)))
                    following = _next_near(c1, first, candidate, floor, SIGNED)
                    if R2 > 0:
                        following = tl.minimum(following, _next_near(c2, second, candidate, floor, SIGNED))
                    candidate = following
        code = 0x7FFFFFFF - (pick & 0x7FFFFFFF).to(tl.int32)
        atom = (code >> 1).to(tl.int64)
        gram_row = gram_ptr + atom * m
        g1 = tl.load(gram_row + first, mask=first < m, other=0.0)
        if R2 > 0:
            g2 = tl.load(gram_row + second, mask=second < m, other=0.0)
        if CARRY:
            a = tl.load(atoms_ptr + atom * d + features, mask=features < d, other=0.0).to(tl.float32)
            value = tl.sum(a * residual, axis=0)
            residual -= value * a
            norm2 = tl.sum(residual * residual, axis=0)
        else:
            value = _score(pick)
            if SIGNED:
                value = tl.where((code & 1) == 1, -value, value)
            norm2 = tl.maximum(norm2 - value * value, 0.0)
        c1 -= value * g1.to(tl.float32)
        best = _pack(*_best_by_column(c1, first, SIGNED))
        if R2 > 0:
            c2 -= value * g2.to(tl.float32)
            best = tl.maximum(best, _pack(*_best_by_column(c2, second, SIGNED)))
        tl.store(values_ptr + row * k + step, value)
        tl.store(indices_ptr + row * k + step, atom)
        tl.store(norms_ptr + row * k + step, tl.sqrt(norm2))
        pick, second_best = _two_best(best)
        alive = (tl.sqrt(norm2) > tol) & (pick > 0)
        step += 1
    slot = tl.arange(0, K2)
    rest = (slot >= step) & (slot < k)
    tl.store(values_ptr + row * k + slot, tl.zeros((K2,), tl.float32), mask=rest)
    tl.store(indices_ptr + row * k + slot, tl.full((K2,), -1, tl.int64), mask=rest)
    tl.store(norms_ptr + row * k + slot, tl.zeros((K2,), tl.float32) + tl.sqrt(norm2), mask=rest)


@triton.jit
def pursuit_backward_kernel(
    grad_ptr, x_ptr, atoms_ptr, values_ptr, indices_ptr, dx_ptr, uses_ptr, row0, k, d, D2: tl.constexpr,
):  # fmt: skip
    local = tl.program_id(0).to(tl.int64)
    row = row0 + local
    columns = tl.arange(0, D2)
    inside = columns < d
    residual = tl.load(x_ptr + row * d + columns, mask=inside, other=0.0).to(tl.float32)
    for step in range(0, k):
        atom = tl.load(indices_ptr + row * k + step)
        z = tl.load(values_ptr + row * k + step)
        a = tl.load(atoms_ptr + atom * d + columns, mask=columns < tl.where(atom >= 0, d, 0), other=0.0).to(tl.float32)
        residual -= z * a
    w = tl.zeros((D2,), tl.float32)
    for back in range(0, k):
        step = k - 1 - back
        atom = tl.load(indices_ptr + row * k + step)
        z = tl.load(values_ptr + row * k + step)
        g = tl.load(grad_ptr + row * k + step).to(tl.float32)
        a = tl.load(atoms_ptr + atom * d + columns, mask=columns < tl.where(atom >= 0, d, 0), other=0.0).to(tl.float32)
        residual += z * a
        u = tl.where(atom >= 0, g - tl.sum(a * w, axis=0), 0.0)
        use = uses_ptr + (local * k + step) * d + columns
        tl.store(use, (u * residual - z * w).to(uses_ptr.dtype.element_ty), mask=inside)
        w += u * a
    tl.store(dx_ptr + row * d + columns, w.to(dx_ptr.dtype.element_ty), mask=inside)


def pieces(m: int, columns: int) -> tuple[int, int]:
    """Rows (R1, R2) of the two pieces, powers of two (or R2 = 0), that cover m in rows of `columns` with the least padding."""
    rows = -(-m // columns)
    whole = triton.next_power_of_2(rows)
    half = whole // 2
    if rows == whole or rows == 1:
        return whole, 0
    rest = triton.next_power_of_2(rows - half)
    return (half, rest) if half + rest < whole else (whole, 0)


def launch(m: int, carry: bool) -> tuple[int, int]:
    """(warps, registers a thread), the best of those tried on an H100.

    In 16 bits two tokens or more live on a multiprocessor up to 24,576 atoms, then one. A residual carried along takes
    registers too, and what spills costs more than a second token gains: one token from 8,192 atoms.
    """
    if m <= 8192:
        return 4, 128
    return (16 if carry or m > 24_576 else 8), 128


def gram_pursuit(
    x: Tensor,
    atoms: Tensor,
    gram: Tensor,
    k: int,
    tol: float,
    nonnegative: bool,
    warps: int | None = None,
    registers: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values (n, k) fp32, indices (n, k) int64, norms (n, k) fp32.

    In fp32 the residual is carried along: values and norms are those of x minus the decoded prefix. In 16 bits they
    follow the recursion c -= v * gram[j], whose error the Gram matrix's rounding sets; where that could change the pick,
    the correlations in question are computed from the residual itself.
    """
    (n, d), m = x.shape, len(atoms)
    values = torch.empty((n, k), dtype=torch.float32, device=x.device)
    indices = torch.empty((n, k), dtype=torch.int64, device=x.device)
    norms = torch.empty((n, k), dtype=torch.float32, device=x.device)
    if n == 0:
        return values, indices, norms
    # In 16 bits: rounding the first correlations would alone cost picks half a percent.
    correlations = fp32_sums(x, atoms)
    norm2 = x.float().square().sum(-1)
    if warps is None:
        warps, registers = launch(m, x.dtype == torch.float32)
    columns = min(256 * warps, max(triton.next_power_of_2(m), 256))
    R1, R2 = pieces(m, columns)
    pursuit_kernel[(n,)](
        correlations, gram, x, atoms, norm2, values, indices, norms, k, m, d, tol,
        R1=R1, R2=R2, C=columns, D2=triton.next_power_of_2(d), K2=triton.next_power_of_2(k),
        SIGNED=not nonnegative, CARRY=x.dtype == torch.float32, NEAR=NEAR_TIE, AT_ONCE=AT_ONCE,
        num_warps=warps, maxnreg=registers,
    )  # fmt: skip
    return values, indices, norms


def pursuit_backward(grad: Tensor, x: Tensor, atoms: Tensor, values: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """d x and d atoms; the formulas are those of `pursuit_torch.pursuit_backward`."""
    from sparse_rep.kernels.scatter import ReverseIndex, latent_sum

    (n, k), d = indices.shape, x.shape[1]
    dx = torch.empty_like(x)
    d_atoms = torch.zeros(atoms.shape, dtype=torch.float32, device=x.device)
    chunk = max(1, BACKWARD_BYTES // (4 * k * d))
    uses = torch.empty((min(chunk, n) * k, d), dtype=torch.float32, device=x.device)
    ones = torch.ones((min(chunk, n) * k, 1), dtype=torch.float32, device=x.device)
    for row0 in range(0, n, chunk):
        rows = min(chunk, n - row0)
        pursuit_backward_kernel[(rows,)](
            grad, x, atoms, values, indices, dx, uses, row0, k, d,
            D2=triton.next_power_of_2(d), num_warps=4 if d <= 1024 else 8,
        )  # fmt: skip
        index = ReverseIndex.of(indices[row0 : row0 + rows], len(atoms))
        latent_sum(index, ones[: rows * k], uses, 1, d_atoms, add=True)
    return dx, d_atoms.to(atoms.dtype)
