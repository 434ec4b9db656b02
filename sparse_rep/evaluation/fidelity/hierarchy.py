"""A world of parents and children: features that come in a hierarchy, with directions and magnitudes that are known.

Costa et al. 2025, "From Flat to Hierarchical" (arXiv 2506.03093), appendix B.1, after the toy of Bussmann et al. 2025
(arXiv 2503.17547). One of 11 parents is active at a time: 3 with probability 0.2, 8 with 0.05. Each of the 3 has 3 children,
of which at most one is active, each with probability 0.2 given the parent. So a token has 1.36 active features in the mean.

Letters in shapes: s seeds trained side by side, f features (20), otherwise as in codes.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_rep.evaluation.fidelity.streams import HELDOUT, TOKENS, WORLD, generator

PARENT_PROBABILITY = (0.2,) * 3 + (0.05,) * 8
CHILDREN = 3
CHILD_PROBABILITY = 0.2
N_PARENTS = len(PARENT_PROBABILITY)
PARENT_OF = tuple(parent for parent in range(3) for _ in range(CHILDREN))
"""Parent of each child. Features are numbered parents first: child c is feature N_PARENTS + c."""
N_FEATURES = N_PARENTS + len(PARENT_OF)
MAGNITUDE, SPREAD = 1.5, 0.25
"""Mean and deviation of an active feature's magnitude, drawn for each feature by itself: were a child's tied to its
parent's, one latent for both would be the best code there is."""
EXPECTED_L0 = 1.36
RMS_NORM = (EXPECTED_L0 * (MAGNITUDE**2 + SPREAD**2)) ** 0.5
"""Root-mean-square norm of a token: features that are active together are orthogonal."""

BLOCK = 64
"""Batches drawn at once."""


def mixing(correlation: float, n: int) -> float:
    """The epsilon at which `siblings` gives n directions the pairwise cosine `correlation` (paper, B.1, as a table)."""
    quadratic = (n - 2) - correlation * (n - 1)
    share = correlation / (1 + (1 + quadratic * correlation) ** 0.5)  # of a sibling's direction to one's own
    return share * (n - 1) / (1 + share * (n - 1))


def siblings(q: Float[Tensor, "n d"], epsilon: float) -> Float[Tensor, "n d"]:
    """Orthonormal rows, each mixed with the mean of the others: (1 - eps) q_i + eps mean_{j != i} q_j, of unit norm."""
    others = (q.sum(0) - q) / (len(q) - 1)
    mixed = (1 - epsilon) * q + epsilon * others
    return mixed / mixed.norm(dim=-1, keepdim=True)


def directions(correlation: float, rng: torch.Generator) -> Float[Tensor, "f f"]:
    """Unit directions: parents have this pairwise cosine, the children of one parent too; all else is orthogonal."""
    q = torch.linalg.qr(torch.randn(N_FEATURES, N_FEATURES, generator=rng)).Q
    groups = [q[:N_PARENTS], *q[N_PARENTS:].split(CHILDREN)]
    return torch.cat([siblings(group, mixing(correlation, len(group))) for group in groups])


def magnitudes(n: int, rng: torch.Generator) -> Float[Tensor, "n f"]:
    """Which features are active in n tokens, and how much."""
    parents = torch.tensor(PARENT_PROBABILITY).cumsum(0)
    u = torch.rand(2, n, generator=rng)
    parent = torch.searchsorted(parents / parents[-1], u[0]).clamp(max=N_PARENTS - 1)
    child = (u[1] / CHILD_PROBABILITY).long()  # beyond the last child: none
    has_child = (parent < len(PARENT_OF) // CHILDREN) & (child < CHILDREN)
    active = torch.zeros(n, N_FEATURES)
    active[torch.arange(n), parent] = 1
    active[has_child, N_PARENTS + parent[has_child] * CHILDREN + child[has_child]] = 1
    return active * (MAGNITUDE + SPREAD * torch.randn(n, N_FEATURES, generator=rng))


@final
class HierarchyWorlds:
    """One world a seed, each with its own directions and stream of tokens; what a seed gives depends on no other.

    A stream is a function of the step, so that an interrupted run goes on with the tokens it would have had.
    """

    def __init__(self, seeds: Sequence[int], correlation: float, batch_tokens: int) -> None:
        self.seeds, self.batch_tokens = tuple(seeds), batch_tokens
        worlds = [directions(correlation, generator(seed, WORLD)) for seed in seeds]
        self.directions: Float[Tensor, "s f d"] = torch.stack(worlds)
        self._block: tuple[int, Tensor] | None = None

    def batch(self, step: int) -> Float[Tensor, "s n d"]:
        """The tokens of one training step, in every world."""
        block, at = divmod(step, BLOCK)
        if self._block is None or self._block[0] != block:
            active = self._magnitudes(BLOCK * self.batch_tokens, TOKENS, block)
            self._block = block, (active @ self.directions).unflatten(1, (BLOCK, self.batch_tokens))
        return self._block[1][:, at]

    def heldout(self, n: int) -> tuple[Float[Tensor, "s n d"], Float[Tensor, "s n f"]]:
        """n tokens no step sees, with the true magnitudes of their features."""
        active = self._magnitudes(n, HELDOUT)
        return active @ self.directions, active

    def _magnitudes(self, n: int, purpose: int, number: int = 0) -> Float[Tensor, "s n f"]:
        return torch.stack([magnitudes(n, generator(seed, purpose, number)) for seed in self.seeds])
