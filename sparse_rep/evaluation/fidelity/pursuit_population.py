"""Matching-pursuit dictionaries of one shape, one a seed: every token pursues in its own seed's atoms."""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparse_rep.codes import SparseCodes
from sparse_rep.evaluation.fidelity.populations import Population, squared_error
from sparse_rep.kernels import ops, pursuit_torch
from sparse_rep.saes.unit_rows import remove_radial_gradient, renormalise


@final
class PursuitPopulation(Population):
    """MP-SAE (arXiv 2506.03093): tied unit atoms, steps until the residual's norm is at most `tolerance`.

    As with `sparse_rep.saes.mp`, a token may take an atom again. The paper's toy stops a token that does, which changes what
    is learnt here by less than a seed does and the time by a third.
    """

    def __init__(self, atoms: Float[Tensor, "s m d"], tolerance: float, max_steps: int) -> None:
        super().__init__()
        self.W, self.tolerance, self.max_steps = nn.Parameter(atoms.clone()), tolerance, max_steps

    @property
    def atoms(self) -> Float[Tensor, "s m d"]:
        return self.W

    def losses(self, x: Float[Tensor, "s n d"], step: int) -> Float[Tensor, " s"]:
        values, indices = self._pursue(x)
        x_hat = ops.sparse_decode(values, indices, self.W.flatten(0, 1))
        return squared_error(x, x_hat.view_as(x))

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "s n d"]) -> Float[Tensor, "s n m"]:
        values, indices = self._pursue(x)
        local = torch.where(indices >= 0, indices % self.W.shape[1], -1)
        return SparseCodes(values, local, self.W.shape[1]).dense().view(*x.shape[:2], -1)

    def decode(self, codes: Float[Tensor, "s n m"]) -> Float[Tensor, "s n d"]:
        return codes @ self.W

    def before_step(self) -> None:
        remove_radial_gradient(self.W)

    def after_step(self) -> None:
        renormalise(self.W)

    def _pursue(self, x: Float[Tensor, "s n d"]) -> tuple[Tensor, Tensor]:
        return Pursuit.apply(x.flatten(0, 1), self.W.flatten(0, 1), len(x), self.tolerance, self.max_steps)  # pyright: ignore


class Pursuit(torch.autograd.Function):
    """Rows (s n, d), unit atoms (s m, d) -> values and indices (s n, steps) into all s m atoms; exact gradient of the atoms.

    The rows and atoms of a seed are contiguous. Steps run in the Gram matrix of a seed's atoms, on the rows still at it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, atoms: Tensor, n_seeds: int, tolerance: float, max_steps: int
    ) -> tuple[Tensor, Tensor]:
        n, m = len(x) // n_seeds, len(atoms) // n_seeds
        own = atoms.view(n_seeds, m, -1)
        gram = (own @ own.mT).flatten(0, 1)
        correlations = (x.view(n_seeds, n, -1) @ own.mT).flatten(0, 1)
        rows, first = torch.arange(len(x)), torch.arange(n_seeds).repeat_interleave(n) * m
        residual = x.square().sum(-1)
        values, indices = [], []
        for _ in range(max_steps):
            value, atom = correlations.max(-1)
            going = value > 0
            if not bool(going.all()):
                rows, first, residual = rows[going], first[going], residual[going]
                correlations, value, atom = correlations[going], value[going], atom[going]
            if len(rows) == 0:
                break
            values.append(x.new_zeros(len(x)).index_copy(0, rows, value))
            indices.append(torch.full((len(x),), -1).index_copy(0, rows, first + atom))
            # ||r - v a||^2 = ||r||^2 - v^2 for a unit atom taken at its own correlation.
            residual = residual - value.square()
            going = residual > tolerance**2
            rows, first, residual, value, atom = rows[going], first[going], residual[going], value[going], atom[going]
            correlations = torch.addcmul(
                correlations[going], gram.index_select(0, first + atom), value[:, None], value=-1
            )
        packed = torch.stack(values, -1), torch.stack(indices, -1)
        ctx.save_for_backward(x, atoms, *packed)
        ctx.mark_non_differentiable(packed[1])
        return packed

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return (*pursuit_torch.pursuit_backward(grads[0], *ctx.saved_tensors), None, None, None)
