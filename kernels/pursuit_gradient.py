"""Loss and gradient of a matching-pursuit reconstruction in one pass over each token's atoms (Triton).

With r_0 = x / scale - b, r_s = r_{s-1} - z_s a_s where z_s = <a_s, r_{s-1}>, and loss |r_k|^2, the chain rule along the
residuals needs no separate decoder gradient: from g_k = r_k, going back,

    u = <a_s, g_s>       use_s = -(u r_{s-1} + z_s g_s)       g_{s-1} = g_s - u a_s

where the uses of an atom sum to half its gradient and -sum g_0 over tokens is half that of b. Residuals and g are fp32 in
registers; each is recomputed from x and the codes, none is stored.
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

from sparse_rep.kernels.scatter import ReverseIndex, latent_sum

USES_BYTES = 512 * 2**20
"""Buffer of per-use rows; tokens are taken in chunks that fit."""


@triton.jit
def pursuit_gradient_kernel(
    x_ptr, scale_ptr, bias_ptr, atoms_ptr, values_ptr, indices_ptr, left_ptr, first_ptr, uses_ptr, squares_ptr, row0, k, d,
    D2: tl.constexpr,
):  # fmt: skip
    local = tl.program_id(0).to(tl.int64)
    row = row0 + local
    columns = tl.arange(0, D2)
    inside = columns < d
    x = tl.load(x_ptr + row * d + columns, mask=inside, other=0.0).to(tl.float32)
    residual = x / tl.load(scale_ptr) - tl.load(bias_ptr + columns, mask=inside, other=0.0)
    for step in range(0, k):
        atom = tl.load(indices_ptr + row * k + step)
        z = tl.load(values_ptr + row * k + step)
        a = tl.load(atoms_ptr + atom * d + columns, mask=columns < tl.where(atom >= 0, d, 0), other=0.0).to(tl.float32)
        residual -= z * a
    tl.store(squares_ptr + row, tl.sum(residual * residual, axis=0))
    tl.store(left_ptr + row * d + columns, residual.to(left_ptr.dtype.element_ty), mask=inside)
    g = residual
    for back in range(0, k):
        step = k - 1 - back
        atom = tl.load(indices_ptr + row * k + step)
        z = tl.load(values_ptr + row * k + step)
        a = tl.load(atoms_ptr + atom * d + columns, mask=columns < tl.where(atom >= 0, d, 0), other=0.0).to(tl.float32)
        residual += z * a
        u = tl.sum(a * g, axis=0)
        use = uses_ptr + (local * k + step) * d + columns
        tl.store(use, (-(u * residual + z * g)).to(uses_ptr.dtype.element_ty), mask=inside)
        g -= u * a
    tl.store(first_ptr + row * d + columns, g.to(first_ptr.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class PursuitGradient:
    """Half the gradients of the summed squared residual, and the residual."""

    squared_error: Tensor
    """Sum over tokens of |r_k|^2."""
    residual: Tensor
    """r_k (n, d), in the atoms' dtype."""
    atoms: Tensor
    """(m, d) fp32."""
    bias: Tensor
    """(d,) fp32."""
    index: ReverseIndex
    """Uses sorted by atom, of the last chunk of tokens."""
    used: Tensor
    """Boolean (m,): atoms that some token took."""


def pursuit_gradient(
    x: Tensor, scale: Tensor, bias: Tensor, atoms: Tensor, values: Tensor, indices: Tensor
) -> PursuitGradient:
    """`x` (n, d) unscaled, `atoms` (m, d) of unit norm, codes (n, k) in order of selection."""
    (n, k), (m, d) = indices.shape, atoms.shape
    left, first = torch.empty_like(x, dtype=atoms.dtype), torch.empty_like(x, dtype=atoms.dtype)
    squares = torch.empty(n, dtype=torch.float32, device=x.device)
    d_atoms = torch.zeros((m, d), dtype=torch.float32, device=x.device)
    used = torch.zeros(m, dtype=torch.bool, device=x.device)
    chunk = max(1, min(USES_BYTES // (atoms.element_size() * k * d), n))
    uses = torch.empty((chunk * k, d), dtype=atoms.dtype, device=x.device)
    ones = torch.ones((chunk * k, 1), dtype=torch.float32, device=x.device)
    for row0 in range(0, n, chunk):
        rows = min(chunk, n - row0)
        pursuit_gradient_kernel[(rows,)](
            x, scale, bias, atoms, values, indices, left, first, uses, squares, row0, k, d,
            D2=triton.next_power_of_2(d), num_warps=4 if d <= 1024 else 8,
        )  # fmt: skip
        index = ReverseIndex.of(indices[row0 : row0 + rows], m)
        latent_sum(index, ones[: rows * k], uses, 1, d_atoms, add=True)
        used |= index.offsets.diff() > 0
    return PursuitGradient(squares.sum(), left, d_atoms, -first.sum(0, dtype=torch.float32), index, used)
