"""Matching pursuit by the Gram matrix, one program a token with its correlations in registers, and its backward (Triton).

A step reads one Gram row: n * k * m elements in all, which is what the time goes into. Correlations are held in two
pieces, a power of two and the next smaller one that covers the rest, because a block must be a power of two and 24,576 is not.
"""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnbound=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_ATOMS = 32_768
"""Correlations that one program can hold in registers."""

BACKWARD_BYTES = 256 * 2**20
"""Buffer of the backward's per-use rows; tokens are taken in chunks that fit."""


@triton.jit
def _score(c, SIGNED: tl.constexpr):
    return tl.abs(c) if SIGNED else c


@triton.jit
def pursuit_kernel(
    corr_ptr, gram_ptr, x_ptr, atoms_ptr, norm2_ptr, values_ptr, indices_ptr, norms_ptr, k, m, d, tol,
    M1: tl.constexpr, M2: tl.constexpr, D2: tl.constexpr, K2: tl.constexpr,
    SIGNED: tl.constexpr, CARRY: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    first = tl.arange(0, M1)
    # Past the last atom correlations are 0: never above 0, so never chosen.
    c1 = tl.load(corr_ptr + row * m + first, mask=first < m, other=0.0).to(tl.float32)
    if M2 > 0:
        second = M1 + tl.arange(0, M2)
        c2 = tl.load(corr_ptr + row * m + second, mask=second < m, other=0.0).to(tl.float32)
    norm2 = tl.load(norm2_ptr + row)
    columns = tl.arange(0, D2)
    if CARRY:
        residual = tl.load(x_ptr + row * d + columns, mask=columns < d, other=0.0).to(tl.float32)
    step = tl.full((), 0, tl.int32)
    alive = tl.sqrt(norm2) > tol
    while (step < k) & alive:
        best = tl.max(_score(c1, SIGNED), axis=0)
        if M2 > 0:
            best = tl.maximum(best, tl.max(_score(c2, SIGNED), axis=0))
        alive = best > 0
        if alive:
            atom = tl.min(tl.where(_score(c1, SIGNED) == best, first, 0x7FFFFFFF), axis=0)
            if M2 > 0:
                atom = tl.minimum(atom, tl.min(tl.where(_score(c2, SIGNED) == best, second, 0x7FFFFFFF), axis=0))
            gram_row = gram_ptr + atom.to(tl.int64) * m
            g1 = tl.load(gram_row + first, mask=first < m, other=0.0)
            if M2 > 0:
                g2 = tl.load(gram_row + second, mask=second < m, other=0.0)
            if CARRY:
                a = tl.load(atoms_ptr + atom.to(tl.int64) * d + columns, mask=columns < d, other=0.0).to(tl.float32)
                value = tl.sum(a * residual, axis=0)
                residual -= value * a
                norm2 = tl.sum(residual * residual, axis=0)
            else:
                value = best
                if SIGNED:
                    value = tl.sum(tl.where(first == atom, c1, 0.0), axis=0)
                    if M2 > 0:
                        value += tl.sum(tl.where(second == atom, c2, 0.0), axis=0)
                norm2 = tl.maximum(norm2 - value * value, 0.0)
            c1 -= value * g1.to(tl.float32)
            if M2 > 0:
                c2 -= value * g2.to(tl.float32)
            tl.store(values_ptr + row * k + step, value)
            tl.store(indices_ptr + row * k + step, atom.to(tl.int64))
            tl.store(norms_ptr + row * k + step, tl.sqrt(norm2))
            alive = tl.sqrt(norm2) > tol
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


def pieces(m: int) -> tuple[int, int]:
    """(M1, M2): powers of two with M1 <= m <= M1 + M2, or M2 = 0 and M1 >= m where that pads less than a tenth."""
    whole = triton.next_power_of_2(m)
    if whole <= 1024 or whole <= 1.1 * m:
        return whole, 0
    return whole // 2, triton.next_power_of_2(m - whole // 2)


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
    follow the recursion c -= v * gram[j], whose error the Gram matrix's rounding sets.
    """
    (n, d), m = x.shape, len(atoms)
    values = torch.empty((n, k), dtype=torch.float32, device=x.device)
    indices = torch.empty((n, k), dtype=torch.int64, device=x.device)
    norms = torch.empty((n, k), dtype=torch.float32, device=x.device)
    if n == 0:
        return values, indices, norms
    correlations = x @ atoms.T
    norm2 = x.float().square().sum(-1)
    M1, M2 = pieces(m)
    pursuit_kernel[(n,)](
        correlations, gram, x, atoms, norm2, values, indices, norms, k, m, d, tol,
        M1=M1, M2=M2, D2=triton.next_power_of_2(d), K2=triton.next_power_of_2(k),
        SIGNED=not nonnegative, CARRY=x.dtype == torch.float32,
        num_warps=warps or (16 if m > 16_384 else 8 if m > 4096 else 4), maxnreg=registers,
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
