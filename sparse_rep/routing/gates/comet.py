"""COMET: soft decision trees that choose experts, differentiably, and become hard."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparse_rep.codes import SparseCodes
from sparse_rep.routing.gates.gate import Gate, Gated
from sparse_rep.routing.gates.leaf_order import LeafOrder
from sparse_rep.routing.gates.smooth_step import plogp, smooth_step
from sparse_rep.routing.gates.tree import Tree


@final
class CometGate(Gate):
    """COMET (Ibrahim et al. 2023, arXiv 2306.02824): k trees, each sends a token to one leaf once its splits have hardened.

    A split sends the share S(w.x + b) of a token to its left, S the smooth step. A leaf that is reached with probability p has
    the score a(x) + log p, a linear; the softmax over all reached leaves of all trees, summed over trees, is the gate. So
    weights sum to 1 for any number of experts, and at most k of them are left once every split says 0 or 1.

    Args:
        width: of the smooth step; split weights start within a hundredth of it.
        entropy: weight of the entropy of the leaf probabilities, which drives the splits to 0 and 1.
        order: learns which expert sits at which leaf (COMET+); None leaves them in heap order.
    """

    width: Tensor
    entropy: Tensor

    def __init__(
        self,
        d: int,
        n_experts: int,
        k: int,
        *,
        width: float = 1.0,
        entropy: float = 0.0,
        order: LeafOrder | None = None,
    ) -> None:
        super().__init__(n_experts, k)
        self.tree, self.order = Tree(n_experts), order
        self.splits = nn.Linear(d, k * self.tree.n_splits)
        self.leaves = nn.Linear(d, k * n_experts)
        nn.init.uniform_(self.splits.weight, -width / 100, width / 100)
        nn.init.uniform_(self.splits.bias, -width / 100, width / 100)
        self.constant("width", width)
        self.constant("entropy", entropy)

    def forward(self, x: Float[Tensor, "n d"], ids: Tensor | None = None) -> Gated:
        reached = self.reached(x)
        log_p = reached.where(reached > 0, 1).log()
        scores = (self.leaves(x).view_as(reached) + log_p).masked_fill(reached <= 0, float("-inf"))
        share = scores.flatten(1).softmax(1).view_as(reached)
        penalty = self.entropy * -plogp(reached).sum((1, 2)).mean()
        if self.order is not None:
            penalty = penalty + self.order.penalty()
        return Gated(self._ordered(share), penalty)

    def reached(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k leaves"]:
        """Probability of each leaf of each tree."""
        go_left = smooth_step(self.splits(x), self.width)
        return self.tree.leaf_probabilities(go_left.view(-1, self.k, self.tree.n_splits))

    @torch.no_grad()
    def conditional(self, x: Float[Tensor, "n d"]) -> tuple[SparseCodes, int]:
        """The same weights by visiting only what is reached: subtrees with probability 0 are skipped.

        Returns the codes, and how many splits and leaves were computed, of n * k * (2 E - 1).
        """
        scores = x.new_full((len(x), self.k, self.n_experts), float("-inf"))
        computed = 0
        for tree in range(self.k):
            # Which rows reach a node, and the log of how much of them; in heap order parents come first.
            waiting = {0: (torch.arange(len(x), device=x.device), x.new_zeros(len(x)))}
            for node in range(2 * self.n_experts - 1):
                rows, log_p = waiting.pop(node)
                computed += len(rows)
                if node >= self.tree.n_splits:
                    leaf = node - self.tree.n_splits
                    scores[rows, tree, leaf] = log_p + self._score(self.leaves, tree, leaf, x[rows])
                    continue
                left = smooth_step(self._score(self.splits, tree, node, x[rows]), self.width)
                for child, share in ((2 * node + 1, left), (2 * node + 2, 1 - left)):
                    on = share > 0
                    waiting[child] = rows[on], log_p[on] + share[on].log()
        share = scores.flatten(1).softmax(1).view_as(scores)
        return SparseCodes.from_dense(self._ordered(share)), computed

    def _score(self, linear: nn.Linear, tree: int, node: int, x: Tensor) -> Tensor:
        row = tree * (linear.out_features // self.k) + node
        return x @ linear.weight[row] + linear.bias[row]

    def _ordered(self, share: Float[Tensor, "n k leaves"]) -> Float[Tensor, "n e"]:
        """From leaves of trees to experts."""
        return share.sum(1) if self.order is None else torch.einsum("nkl,kle->ne", share, self.order.matrix())
