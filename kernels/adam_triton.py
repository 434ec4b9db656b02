"""`adam.adam_rows` in one pass over memory (Triton)."""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sparse_rep.kernels.step_scalars import BETAS, EPSILON, StepScalars

FLAT_BLOCK = 1024


@triton.jit
def _moved(p, g, m, v, lr, first, second, BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr):
    m += (g - m) * (1 - BETA1)
    v = v * BETA2 + g * g * (1 - BETA2)
    return p - lr * (m / first) / (tl.sqrt(v / second) + EPS), m, v


@triton.jit
def unit_rows_kernel(
    p_ptr, g_ptr, m_ptr, v_ptr, shadow_ptr, lr_ptr, scale_ptr, corrections_ptr, rows, d,
    SHADOW: tl.constexpr, BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program an atom: its projection and its norm are sums over the row that it holds in registers."""
    row = tl.program_id(0).to(tl.int64)
    member = row // rows
    columns = tl.arange(0, BLOCK)
    inside = columns < d
    at = row * d + columns
    p = tl.load(p_ptr + at, mask=inside, other=0.0)
    g = tl.load(g_ptr + at, mask=inside, other=0.0).to(tl.float32)
    m = tl.load(m_ptr + at, mask=inside, other=0.0)
    v = tl.load(v_ptr + at, mask=inside, other=0.0)
    g -= tl.sum(g * p, axis=0) * p
    g *= tl.load(scale_ptr + member)
    first, second = tl.load(corrections_ptr), tl.load(corrections_ptr + 1)
    p, m, v = _moved(p, g, m, v, tl.load(lr_ptr + member), first, second, BETA1, BETA2, EPS)
    p /= tl.maximum(tl.sqrt(tl.sum(p * p, axis=0)), 1e-12)
    tl.store(p_ptr + at, p, mask=inside)
    tl.store(m_ptr + at, m, mask=inside)
    tl.store(v_ptr + at, v, mask=inside)
    if SHADOW:
        tl.store(shadow_ptr + at, p.to(shadow_ptr.dtype.element_ty), mask=inside)


@triton.jit
def flat_kernel(
    p_ptr, g_ptr, m_ptr, v_ptr, shadow_ptr, lr_ptr, scale_ptr, corrections_ptr, per_member, blocks,
    SHADOW: tl.constexpr, BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    member = (tl.program_id(0) // blocks).to(tl.int64)
    offset = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < per_member
    at = member * per_member + offset
    p = tl.load(p_ptr + at, mask=inside, other=0.0)
    g = tl.load(g_ptr + at, mask=inside, other=0.0).to(tl.float32) * tl.load(scale_ptr + member)
    m = tl.load(m_ptr + at, mask=inside, other=0.0)
    v = tl.load(v_ptr + at, mask=inside, other=0.0)
    first, second = tl.load(corrections_ptr), tl.load(corrections_ptr + 1)
    p, m, v = _moved(p, g, m, v, tl.load(lr_ptr + member), first, second, BETA1, BETA2, EPS)
    tl.store(p_ptr + at, p, mask=inside)
    tl.store(m_ptr + at, m, mask=inside)
    tl.store(v_ptr + at, v, mask=inside)
    if SHADOW:
        tl.store(shadow_ptr + at, p.to(shadow_ptr.dtype.element_ty), mask=inside)


def adam_rows(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, scalars: StepScalars, shadow: Tensor | None, unit: bool
) -> None:
    members, rows, d = p.shape
    tensors = (p, g, m, v, p if shadow is None else shadow)
    assert all(t.is_contiguous() for t in tensors)
    shared = (*tensors, scalars.lr, scalars.grad_scale, scalars.corrections)
    options = {"SHADOW": shadow is not None, "BETA1": BETAS[0], "BETA2": BETAS[1], "EPS": EPSILON}
    if unit:
        block = triton.next_power_of_2(d)
        unit_rows_kernel[(members * rows,)](
            *shared, rows, d, BLOCK=block, num_warps=min(max(block // 256, 1), 8), **options
        )
        return
    blocks = triton.cdiv(rows * d, FLAT_BLOCK)
    flat_kernel[(members * blocks,)](*shared, rows * d, blocks, BLOCK=FLAT_BLOCK, num_warps=4, **options)
