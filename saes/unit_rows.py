"""Atoms of unit norm: how they start, and how a step keeps them so."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def random_unit_rows(m: int, d: int, generator: torch.Generator) -> Float[Tensor, "m d"]:
    """Directions uniform on the sphere, drawn on the CPU so that a seed means the same on every device."""
    return unit_rows(torch.randn(m, d, generator=generator))


def unit_rows(rows: Float[Tensor, "... m d"]) -> Float[Tensor, "... m d"]:
    """Each row over its norm; a zero row stays zero."""
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)


@torch.no_grad()
def remove_radial_gradient(atoms: Tensor) -> None:
    """Take away the part of `atoms.grad` along each atom: the norm constraint would undo it, Adam would remember it.

    (Bricken et al. 2023, "Towards Monosemanticity", appendix.)
    """
    if atoms.grad is not None:
        along = (atoms.grad * atoms).sum(-1, keepdim=True)
        atoms.grad.addcmul_(along, atoms, value=-1)


@torch.no_grad()
def renormalise(atoms: Tensor) -> None:
    """Put each atom back on the unit sphere, in place."""
    atoms.div_(atoms.norm(dim=-1, keepdim=True).clamp(min=1e-12))
