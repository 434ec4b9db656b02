"""COMET+'s local search: which expert sits at which leaf, learned as a soft permutation and then fixed."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparse_rep.routing.gates.smooth_step import plogp


@final
class LeafOrder(nn.Module):
    """One permutation of the experts a tree (Ibrahim et al. 2023, section 4).

    While it searches, `matrix()` is the Sinkhorn normalisation of theta / temperature: doubly stochastic, and nearer to a
    permutation the lower the temperature, which `anneal` lowers along a logarithmic line from `hot` to `cold` while it raises
    the iterations. `settle` rounds to the nearest permutation (Hungarian algorithm), which stays.

    Args:
        n_trees: trees of the gate.
        n: leaves of each, and experts.
        entropy: weight of the entropy of the soft permutations.
    """

    def __init__(
        self,
        n_trees: int,
        n: int,
        *,
        hot: float = 1e-3,
        cold: float = 1e-7,
        iterations: tuple[int, int] = (20, 150),
        entropy: float = 1e-4,
    ) -> None:
        super().__init__()
        self.theta = nn.Parameter(hot * torch.rand(n_trees, n, n))
        self.hot, self.cold, self.most, self.entropy = hot, cold, iterations, entropy
        self.temperature, self.iterations = hot, iterations[0]
        self.searching = True

    def anneal(self, progress: float) -> None:
        """Set temperature and iterations for a share 0..1 of the search done."""
        self.temperature = self.hot * (self.cold / self.hot) ** progress
        self.iterations = round(self.most[0] + progress * (self.most[1] - self.most[0]))

    def matrix(self) -> Float[Tensor, "trees n n"]:
        """Rows are leaves, columns experts."""
        if not self.searching:
            return self.theta
        return sinkhorn(self.theta / self.temperature, self.iterations)

    def penalty(self) -> Float[Tensor, ""]:
        """Weighted mean entropy of the rows while it searches, 0 afterwards."""
        if not self.searching:
            return self.theta.new_zeros(())
        return self.entropy * -plogp(self.matrix()).sum(-1).mean()

    @torch.no_grad()
    def settle(self) -> None:
        """Round to permutations, for good."""
        self.theta.copy_(nearest_permutations(self.theta))
        self.theta.requires_grad_(False)
        self.searching = False

    def get_extra_state(self) -> bool:
        return self.searching

    def set_extra_state(self, state: bool) -> None:
        self.searching = state


def sinkhorn(scores: Float[Tensor, "*rows n n"], iterations: int) -> Float[Tensor, "*rows n n"]:
    """exp(scores) with rows and columns normalised in turn, in logarithms; rows last, so that weights keep their sum."""
    log_p = scores
    for _ in range(iterations):
        log_p = log_p - log_p.logsumexp(-2, keepdim=True)
        log_p = log_p - log_p.logsumexp(-1, keepdim=True)
    return log_p.exp()


def nearest_permutations(scores: Float[Tensor, "*rows n n"]) -> Float[Tensor, "*rows n n"]:
    """The permutation matrix with the largest sum of scores, for each matrix (Hungarian algorithm, scipy's)."""
    from scipy.optimize import linear_sum_assignment

    flat = scores.reshape(-1, *scores.shape[-2:])
    hard = torch.zeros_like(flat)
    for matrix, out in zip(flat, hard, strict=True):
        rows, columns = linear_sum_assignment(matrix.double().cpu().numpy(), maximize=True)
        out[torch.as_tensor(rows), torch.as_tensor(columns)] = 1
    return hard.view_as(scores)
