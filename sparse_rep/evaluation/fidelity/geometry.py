"""How the atoms of a dictionary lie, and how its codes spread (arXiv 2506.03093, section 5; formulas there and in Tropp 2004)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_rep.codes import SparseCodes
from sparse_rep.evaluation.fidelity.matching import assignment


def unit(atoms: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
    """Rows over their norms in float64; a zero row stays zero."""
    return atoms.double() / atoms.double().norm(dim=-1, keepdim=True).clamp(min=1e-12)


def babel(atoms: Float[Tensor, "m d"], sizes: list[int]) -> list[float]:
    """mu_1(r) for each r: the most that r other atoms can overlap with one, max_j of the sum of its r largest |<D_i, D_j>|.

    (Tropp 2004, "Greed is good".) 0 for orthonormal atoms, r for r + 1 equal ones. Raises ValueError where r >= m.
    """
    if max(sizes) >= len(atoms):
        raise ValueError(f"mu_1({max(sizes)}) needs more than {max(sizes)} atoms, there are {len(atoms)}")
    overlap = _overlaps(unit(atoms)).topk(max(sizes), dim=-1).values.cumsum(-1).amax(0)
    return [float(overlap[size - 1]) for size in sizes]


def coactive_babel(atoms: Float[Tensor, "m d"], codes: SparseCodes) -> float:
    """Mean over tokens of mu_1 of the atoms they use, each divided by the number of others: the overlap a pair.

    Tokens with fewer than two atoms are left out; NaN where all are.
    """
    directions, merged = unit(atoms), codes.coalesce()
    overlaps = []
    for row in range(merged.n):
        used = merged.indices[row][merged.active[row]].long()
        if len(used) > 1:
            overlaps.append(_overlaps(directions[used]).sum(-1).max() / (len(used) - 1))
    return float(torch.stack(overlaps).mean()) if overlaps else float("nan")


def near_duplicates(atoms: Float[Tensor, "m d"], cosine: float = 0.9) -> int:
    """Pairs of atoms whose cosine exceeds this."""
    directions = unit(atoms)
    return int((directions @ directions.T).triu(1).gt(cosine).sum())


def effective_rank(codes: SparseCodes) -> float:
    """exp of the entropy of the normalised eigenvalues of Z^T Z: 1 where one direction holds all, m where all are alike.

    (Roy & Vetterli 2007, "The effective rank".) NaN where no code is active.
    """
    z = codes.dense().double()
    eigenvalues = torch.linalg.eigvalsh(z.T @ z).clamp(min=0)
    if eigenvalues.sum() == 0:
        return float("nan")
    share = eigenvalues / eigenvalues.sum()
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


def stability(one: Float[Tensor, "m d"], other: Float[Tensor, "m d"]) -> float:
    """Mean cosine of the atoms of two dictionaries, each with its partner by the Hungarian method: 1 where they are the same."""
    cosines = unit(one) @ unit(other).T
    partner = assignment(cosines)
    return float(cosines[torch.arange(len(one)), partner].mean())


def _overlaps(directions: Float[Tensor, "m d"]) -> Float[Tensor, "m m"]:
    return (directions @ directions.T).abs().fill_diagonal_(0)
