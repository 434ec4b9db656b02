"""Matching pursuit in plain torch: by the Gram matrix in blocks of rows that stay in cache, or by the product each step."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_ROWS = 128
GROUP = 64
"""torch's amax is vectorised and its argmax is not: the argmax runs over maxima of groups, then within one group."""


class Codes:
    """What a pursuit fills: step values, atoms in order of selection, residual norm after each step."""

    def __init__(self, x: Tensor, k: int) -> None:
        wide = torch.promote_types(x.dtype, torch.float32)
        self.values = torch.zeros((len(x), k), dtype=wide, device=x.device)
        self.indices = torch.full((len(x), k), -1, dtype=torch.int64, device=x.device)
        self.norms = x.to(wide).norm(dim=-1, keepdim=True).repeat(1, k)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.values, self.indices, self.norms


def gram_pursuit(x: Tensor, atoms: Tensor, gram: Tensor, k: int, tol: float, nonnegative: bool) -> Codes:
    """c = atoms x once; a step is an argmax, then c -= v * gram[j]. Values and norms come from a residual kept alongside."""
    codes, m = Codes(x, k), len(atoms)
    width = -(-m // GROUP) * GROUP
    for start in range(0, len(x), BLOCK_ROWS):
        rows = torch.arange(start, min(start + BLOCK_ROWS, len(x)), device=x.device)
        residual = x[rows].to(codes.values.dtype)
        padded = residual.new_zeros((len(rows), width))
        padded[:, :m] = x[rows] @ atoms.T
        for step in range(k):
            best, atom = _best(padded, nonnegative)
            alive = (best > 0) & (residual.norm(dim=-1) > tol)
            if not bool(alive.all()):
                rows, residual, padded, atom = rows[alive], residual[alive], padded[alive], atom[alive]
                if len(rows) == 0:
                    break
            value = _advance(residual, atoms, atom)
            padded[:, :m].addcmul_(gram.index_select(0, atom).to(padded.dtype), value[:, None], value=-1)
            _record(codes, rows, step, value, atom, residual)
    return codes


def product_pursuit(x: Tensor, atoms: Tensor, k: int, tol: float, nonnegative: bool, budget: int) -> Codes:
    """For dictionaries whose Gram matrix is over budget: residuals times atoms each step, in blocks within `budget` bytes."""
    codes, m = Codes(x, k), len(atoms)
    block = max(1, budget // (m * x.element_size()))
    for start in range(0, len(x), block):
        rows = torch.arange(start, min(start + block, len(x)), device=x.device)
        residual = x[rows].to(codes.values.dtype)
        for step in range(k):
            scores = residual.to(atoms.dtype) @ atoms.T
            best, atom = (scores if nonnegative else scores.abs()).max(-1)
            alive = (best > 0) & (residual.norm(dim=-1) > tol)
            if not bool(alive.all()):
                rows, residual, atom = rows[alive], residual[alive], atom[alive]
                if len(rows) == 0:
                    break
            value = _advance(residual, atoms, atom)
            _record(codes, rows, step, value, atom, residual)
    return codes


def pursuit_backward(grad: Tensor, x: Tensor, atoms: Tensor, values: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """d x and d atoms for d values: the transposed triangular solve, one step of the pursuit at a time from the last.

    With rows a_t of the chosen atoms the codes solve (I + tril(A A^T, -1)) z = A x. Its adjoint is u_t = g_t - <a_t, w>
    with w the sum of u_s a_s over s > t; then dx = w at the end and a_t gets u_t r_{t-1} - z_t w. No residual is stored:
    r_{t-1} = r_t + z_t a_t.
    """
    wide = values.dtype
    d_atoms = torch.zeros(atoms.shape, dtype=wide, device=x.device)
    residual = x.to(wide).clone()
    for step in range(indices.shape[1]):
        residual -= values[:, step, None] * _rows(atoms, indices[:, step]).to(wide)
    w = torch.zeros_like(residual)
    for step in reversed(range(indices.shape[1])):
        atom, z = indices[:, step], values[:, step, None]
        a = _rows(atoms, atom).to(wide)
        residual += z * a
        used = (atom >= 0)[:, None]
        u = torch.where(used, grad[:, step, None].to(wide) - (a * w).sum(-1, keepdim=True), 0)
        # index_put_ with accumulate sorts its indices on CUDA: deterministic there too.
        d_atoms.index_put_((atom.clamp(min=0),), torch.where(used, u * residual - z * w, 0), accumulate=True)
        w += u * a
    return w.to(x.dtype), d_atoms.to(atoms.dtype)


def _rows(atoms: Tensor, index: Tensor) -> Tensor:
    return atoms.index_select(0, index.clamp(min=0))


def _best(correlations: Tensor, nonnegative: bool) -> tuple[Tensor, Tensor]:
    groups = correlations.view(len(correlations), -1, GROUP)
    maxima = groups.amax(-1) if nonnegative else groups.abs().amax(-1)
    best, group = maxima.max(-1)
    inside = groups[torch.arange(len(groups), device=groups.device), group]
    return best, group * GROUP + (inside if nonnegative else inside.abs()).argmax(-1)


def _advance(residual: Tensor, atoms: Tensor, atom: Tensor) -> Tensor:
    row = atoms.index_select(0, atom).to(residual.dtype)
    value = (row * residual).sum(-1)
    residual.addcmul_(row, value[:, None], value=-1)
    return value


def _record(codes: Codes, rows: Tensor, step: int, value: Tensor, atom: Tensor, residual: Tensor) -> None:
    codes.values[rows, step] = value
    codes.indices[rows, step] = atom
    # Later slots keep this norm should the row stop here.
    codes.norms[rows, step:] = residual.norm(dim=-1, keepdim=True)
