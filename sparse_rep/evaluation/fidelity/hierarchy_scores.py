"""What a dictionary made of the hierarchy toy (arXiv 2506.03093, appendix B.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.evaluation.fidelity.hierarchy import N_PARENTS, PARENT_OF
from sparse_rep.evaluation.fidelity.matching import activation_correlation, assignment


@dataclass(frozen=True)
class HierarchyScores:
    """0 is perfect for all but `l0` (1.36 is the truth's) and `recovery` (1)."""

    absorption: float
    """Mean over children of the cosine of the learned child and its true parent."""
    nmse: float
    """sum ||x - x_hat||^2 / sum ||x||^2."""
    l0: float
    """Mean active latents a token."""
    flat_mse: float
    """Cosines within a level (parents with parents, children with children, each with others): mean squared difference of
    the learned from the true."""
    hierarchical_mse: float
    """The same across levels: of every learned parent with every learned child, where the true cosine is 0."""
    recovery: float
    """Mean cosine of a learned direction and the true one it stands for. Not a score of the paper."""


def hierarchy_scores(
    atoms: Float[Tensor, "m d"],
    codes: Float[Tensor, "n m"],
    x: Float[Tensor, "n d"],
    x_hat: Float[Tensor, "n d"],
    directions: Float[Tensor, "f d"],
    truth: Float[Tensor, "n f"],
) -> HierarchyScores:
    """Scores of one dictionary; latents stand for features by the correlation of their activations."""
    latent = assignment(activation_correlation(codes, truth))
    return HierarchyScores(
        nmse=float((x - x_hat).square().sum() / x.square().sum()),
        l0=float((codes != 0).sum(-1).float().mean()),
        **geometry(atoms, latent, directions),
    )


def geometry(
    atoms: Float[Tensor, "m d"], latent: Int[Tensor, " f"], directions: Float[Tensor, "f d"]
) -> dict[str, float]:
    """The scores that depend on directions alone, `latent` saying which atom stands for which feature.

    An atom of zero norm has no direction: its cosines are 0.
    """
    learned = atoms[latent] / atoms[latent].norm(dim=-1, keepdim=True).clamp(min=1e-12)
    true = directions / directions.norm(dim=-1, keepdim=True)
    parent_of = torch.tensor(PARENT_OF)
    difference = (learned @ learned.T - true @ true.T).square()
    level = torch.arange(len(true)) < N_PARENTS
    within = (level[:, None] == level[None, :]) & ~torch.eye(len(true), dtype=torch.bool)
    return {
        "absorption": float((learned[N_PARENTS:] * true[parent_of]).sum(-1).mean()),
        "flat_mse": float(difference[within].mean()),
        "hierarchical_mse": float(difference[:N_PARENTS, N_PARENTS:].mean()),
        "recovery": float((learned * true).sum(-1).mean()),
    }
