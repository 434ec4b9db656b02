"""Soft binary trees over any number of leaves, kept as a heap."""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn


@final
class Tree(nn.Module):
    """The shape of a binary tree with `n_leaves` leaves: which nodes lie above each leaf, and on which side.

    Node i has the children 2i + 1 and 2i + 2; nodes 0 to n_leaves - 2 split, the rest are leaves in heap order. All leaves lie at
    depth ceil(log2 n_leaves) or one above it.
    """

    def __init__(self, n_leaves: int) -> None:
        super().__init__()
        self.n_leaves, self.n_splits = n_leaves, n_leaves - 1
        depth = math.ceil(math.log2(n_leaves)) if n_leaves > 1 else 0
        node = torch.full((depth, n_leaves), self.n_splits)
        left = torch.ones(depth, n_leaves, dtype=torch.bool)
        for leaf in range(n_leaves):
            at, level = self.n_splits + leaf, 0
            while at:
                node[level, leaf], left[level, leaf] = (at - 1) // 2, at % 2 == 1
                at, level = (at - 1) // 2, level + 1
        self.node: Tensor
        self.left: Tensor
        self.register_buffer("node", node, persistent=False)
        self.register_buffer("left", left, persistent=False)

    def leaf_probabilities(self, go_left: Float[Tensor, "*rows splits"]) -> Float[Tensor, "*rows leaves"]:
        """Product along each leaf's path of the probabilities of going its way; a tree's leaves sum to 1."""
        # A last column of 1 stands in above leaves that lie higher than the deepest.
        padded = torch.cat([go_left, go_left.new_ones(*go_left.shape[:-1], 1)], dim=-1)
        reached = torch.ones_like(padded[..., :1]).expand(*padded.shape[:-1], self.n_leaves)
        for node, left in zip(self.node, self.left, strict=True):
            step = padded[..., node]
            reached = reached * torch.where(left, step, 1 - step)
        return reached
