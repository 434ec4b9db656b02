"""Matching pursuit without a Gram matrix: residuals times atoms each step, of which only maxima of groups are kept (Triton).

The product reads residuals rounded to 16 bits and so may take one group for another where two are nearly as good. A step
therefore looks into every group whose maximum is that close to the best, and computes its correlations in fp32 from the
fp32 residual: the pick is the one that fp32 arithmetic makes.
"""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_rep.kernels.product import group_maxima, group_width
from sparse_rep.kernels.pursuit_torch import Codes
from sparse_rep.kernels.pursuit_triton import _pack, _score_and_code

NEAR_GROUP = 2.0**-9
"""Groups closer than this share of the best are looked into: several times what rounding the residual can move them."""


@triton.jit
def step_kernel(
    max_ptr, left_ptr, rounded_ptr, atoms_ptr, row_ptr, values_ptr, indices_ptr, norms_ptr, alive_ptr,
    step, k, m, d, n_groups, tol,
    G: tl.constexpr, GROUPS: tl.constexpr, D2: tl.constexpr, SIGNED: tl.constexpr, NEAR: tl.constexpr,
):  # fmt: skip
    local = tl.program_id(0).to(tl.int64)
    groups = tl.arange(0, GROUPS)
    maxima = tl.load(max_ptr + local * n_groups + groups, mask=groups < n_groups, other=float("-inf"))
    features = tl.arange(0, D2)
    inside = features < d
    left = tl.load(left_ptr + local * d + features, mask=inside, other=0.0)
    best = tl.max(maxima, axis=0)
    pick = tl.full((), 0, tl.int64)
    if (best > 0) & (tl.sqrt(tl.sum(left * left, axis=0)) > tol):
        floor = best * (1 - NEAR)
        near = tl.sum((maxima >= floor).to(tl.int32), axis=0)
        group = tl.full((), -1, tl.int32)
        for _ in range(0, near):
            group = tl.min(tl.where((maxima >= floor) & (groups > group), groups, 0x7FFFFFFF), axis=0)
            for member in range(0, G):
                atom = group * G + member
                a = tl.load(
                    atoms_ptr + atom.to(tl.int64) * d + features, mask=features < tl.where(atom < m, d, 0), other=0.0
                )
                correlation = tl.sum(a.to(tl.float32) * left, axis=0)
                pick = tl.maximum(pick, _pack(*_score_and_code(correlation, atom, SIGNED)))
    tl.store(alive_ptr + local, pick > 0)
    if pick > 0:
        code = 0x7FFFFFFF - (pick & 0x7FFFFFFF).to(tl.int32)
        atom = (code >> 1).to(tl.int64)
        value = (pick >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        if SIGNED:
            value = tl.where((code & 1) == 1, -value, value)
        a = tl.load(atoms_ptr + atom * d + features, mask=inside, other=0.0).to(tl.float32)
        left -= value * a
        tl.store(left_ptr + local * d + features, left, mask=inside)
        tl.store(rounded_ptr + local * d + features, left.to(rounded_ptr.dtype.element_ty), mask=inside)
        slot = tl.load(row_ptr + local) * k + step
        tl.store(values_ptr + slot, value)
        tl.store(indices_ptr + slot, atom)
        tl.store(norms_ptr + slot, tl.sqrt(tl.sum(left * left, axis=0)))


def product_pursuit(x: Tensor, atoms: Tensor, k: int, tol: float, nonnegative: bool, budget: int) -> Codes:
    """As `pursuit_torch.product_pursuit`, for operands that `product.fused` accepts; rows in blocks within `budget` bytes."""
    codes, (m, d) = Codes(x, k), atoms.shape
    n_groups = -(-m // group_width(m))
    block = max(1, budget // (4 * n_groups + 6 * d))
    for start in range(0, len(x), block):
        rows = torch.arange(start, min(start + block, len(x)), device=x.device)
        rounded = x[start : start + block].clone()
        left = rounded.float()
        for step in range(k):
            maxima = group_maxima(rounded, atoms, not nonnegative)
            alive = torch.empty(len(rows), dtype=torch.bool, device=x.device)
            step_kernel[(len(rows),)](
                maxima, left, rounded, atoms, rows, codes.values, codes.indices, codes.norms, alive,
                step, k, m, d, n_groups, tol,
                G=group_width(m), GROUPS=triton.next_power_of_2(n_groups), D2=triton.next_power_of_2(d),
                SIGNED=not nonnegative, NEAR=NEAR_GROUP, num_warps=4 if d <= 1024 else 8,
            )  # fmt: skip
            if not bool(alive.all()):
                # Rows that stopped keep their last norm in the slots that they leave empty.
                stopped = rows[~alive]
                if step:
                    codes.norms[stopped, step:] = codes.norms[stopped, step - 1, None]
                rows, left, rounded = rows[alive], left[alive], rounded[alive]
                if len(rows) == 0:
                    break
    return codes
