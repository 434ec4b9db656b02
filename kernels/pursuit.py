"""Matching pursuit: which way to run it, and exact gradients for x and the atoms whichever way it ran."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from sparse_rep.kernels import pursuit_torch
from sparse_rep.kernels.checks import gram_dtype
from sparse_rep.kernels.dispatch import Choice

Method = Literal["auto", "gram", "product"]

SCORE_BYTES = 512 * 2**20
"""Extra memory of the product method, whatever n and m."""


def gram_matrix(atoms: Tensor, choice: Choice = "torch") -> Tensor:
    """`atoms atoms^T (m, m)`, its diagonal exactly 1, in `gram_dtype` of the atoms'."""
    atoms = atoms.detach()
    if choice == "triton" and len(atoms) % 8 == 0:
        from sparse_rep.kernels import gram, product

        if product.fused(atoms, atoms):
            programs = product.programs_on(atoms.device)
            return gram.symmetric_product(atoms, gram_dtype(atoms.dtype), programs).fill_diagonal_(1)
    return fp32_sums(atoms, atoms).to(gram_dtype(atoms.dtype)).fill_diagonal_(1)


def fp32_sums(x: Tensor, atoms: Tensor) -> Tensor:
    """x atoms^T with its sums kept in fp32 (fp64 for fp64) whatever the operands are."""
    if x.dtype.itemsize >= 4:
        return x @ atoms.T
    if x.is_cuda:
        return torch.mm(x, atoms.T, out_dtype=torch.float32)
    return x.float() @ atoms.float().T


def gram_bytes(atoms: Tensor) -> int:
    return len(atoms) ** 2 * atoms.element_size()


def resolve(method: Method, atoms: Tensor, gram: Tensor | None, budget: int, choice: Choice) -> Method:
    """ "gram" where the matrix is given or fits `budget` bytes (and, on Triton, a program's registers), else "product".

    Raises ValueError where the Gram method is asked for by name and does not fit.
    """
    needed = 0 if gram is not None else gram_bytes(atoms)
    if method == "gram" and needed > budget:
        raise ValueError(
            f"the Gram matrix of {len(atoms)} atoms takes {needed / 2**30:.2f} GiB, over gram_budget={budget / 2**30:.2f} GiB; "
            f'raise gram_budget or use method="product"'
        )
    if method != "auto":
        return method
    if choice == "triton":
        from sparse_rep.kernels.pursuit_triton import MAX_ATOMS

        if len(atoms) > MAX_ATOMS:
            return "product"
    return "gram" if needed <= budget else "product"


class MatchingPursuit(torch.autograd.Function):
    """x (n, d), unit atoms (m, d) -> values (n, k), indices (n, k), norms (n, k). Only the values carry gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, atoms: Tensor, gram: Tensor | None, k: int, tol: float, nonnegative: bool,
        method: Method, choice: Choice,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        if method == "product":
            # Enough rows a block that a product is worth its launch; the scores of a block are all it keeps.
            run = _product_pursuit(x, atoms, choice)
            codes = run(x, atoms, k, tol, nonnegative, SCORE_BYTES).tensors()
        elif choice == "triton":
            from sparse_rep.kernels import pursuit_triton

            codes = pursuit_triton.gram_pursuit(x, atoms, _gram(atoms, gram, choice), k, tol, nonnegative)
        else:
            codes = pursuit_torch.gram_pursuit(x, atoms, _gram(atoms, gram, choice), k, tol, nonnegative).tensors()
        values, indices, norms = codes
        ctx.save_for_backward(x, atoms, values, indices)
        ctx.choice = choice
        ctx.mark_non_differentiable(indices, norms)
        return values, indices, norms

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, atoms, values, indices = ctx.saved_tensors
        if ctx.choice == "triton":
            from sparse_rep.kernels import pursuit_triton

            dx, d_atoms = pursuit_triton.pursuit_backward(grads[0].contiguous(), x, atoms, values, indices)
        else:
            dx, d_atoms = pursuit_torch.pursuit_backward(grads[0], x, atoms, values, indices)
        return dx, d_atoms, None, None, None, None, None, None


def _gram(atoms: Tensor, gram: Tensor | None, choice: Choice) -> Tensor:
    return gram_matrix(atoms, choice) if gram is None else gram


def _product_pursuit(x: Tensor, atoms: Tensor, choice: Choice) -> Callable[..., pursuit_torch.Codes]:
    if choice == "triton":
        from sparse_rep.kernels import pursuit_product
        from sparse_rep.kernels.product import fused

        if fused(x, atoms):
            return pursuit_product.product_pursuit
    return pursuit_torch.product_pursuit
