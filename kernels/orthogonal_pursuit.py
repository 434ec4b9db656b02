"""Orthogonal matching pursuit in plain torch: after each step the values are a least-squares fit on the chosen atoms.

A step multiplies residuals and atoms again: the Gram form that makes matching pursuit cheap would read all rows chosen so
far, k^2 / 2 Gram rows a token in place of k.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_BYTES = 512 * 2**20
"""Extra memory: scores of a block of tokens and an orthonormal basis of each token's chosen atoms."""

SPANNED = 1e-6
"""A residual this small against x is rounding: what is left of x lies in the span of the chosen atoms."""


@torch.no_grad()
def orthogonal_pursuit(x: Tensor, atoms: Tensor, k: int, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    x, atoms = x.to(wide), atoms.to(wide)
    values = x.new_zeros((len(x), k))
    indices = torch.full((len(x), k), -1, dtype=torch.int64, device=x.device)
    norms = x.norm(dim=-1, keepdim=True).repeat(1, k)
    block = max(1, BLOCK_BYTES // (wide.itemsize * (len(atoms) + k * x.shape[1])))
    for start in range(0, len(x), block):
        rows = slice(start, start + block)
        _pursue(x[rows], atoms, tol, values[rows], indices[rows], norms[rows])
    return values, indices, norms


def _pursue(x: Tensor, atoms: Tensor, tol: float, values: Tensor, indices: Tensor, norms: Tensor) -> None:
    n, k = values.shape
    residual, scale = x.clone(), x.norm(dim=-1)
    basis = x.new_zeros((n, k, x.shape[1]))
    # Column t holds atom t in the basis, so the values solve the upper-triangular system triangle @ z = <basis, x>.
    triangle = torch.eye(k, dtype=x.dtype, device=x.device).repeat(n, 1, 1)
    coordinates = x.new_zeros((n, k))
    for step in range(k):
        atom = (residual @ atoms.T).abs().argmax(-1)
        alive = residual.norm(dim=-1) > (SPANNED * scale).clamp(min=tol)
        row = atoms[atom]
        known = torch.einsum("ntd,nd->nt", basis, row)
        fresh = row - torch.einsum("nt,ntd->nd", known, basis)
        again = torch.einsum("ntd,nd->nt", basis, fresh)  # once more: one pass of Gram-Schmidt loses digits
        fresh = fresh - torch.einsum("nt,ntd->nd", again, basis)
        length = fresh.norm(dim=-1)
        direction = torch.where(alive[:, None], fresh / length[:, None], 0)
        basis[:, step] = direction
        triangle[alive, :, step] = (known + again)[alive]
        triangle[alive, step, step] = length[alive]
        coordinates[:, step] = (direction * residual).sum(-1)
        residual = residual - coordinates[:, step, None] * direction
        indices[:, step] = torch.where(alive, atom, -1)
        norms[:, step] = residual.norm(dim=-1)
    values.copy_(torch.linalg.solve_triangular(triangle, coordinates[..., None], upper=True)[..., 0])
