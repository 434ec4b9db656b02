"""What gates are compared on: digits, and planted regimes whose borders suit one kind of gate or the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Rows of one split."""

    x: Float[Tensor, "n d"]
    y: Tensor
    """Class numbers (n,), or targets (n, d_out)."""
    ids: Int[Tensor, " n"]
    """A name for each row, for gates that route by name."""
    regime: Int[Tensor, " n"] | None
    """Which planted map made the row, where one did."""


@dataclass(frozen=True)
class Task:
    """A mixture to learn: `n_experts` affine experts, about k of them a token."""

    name: str
    train: Part
    validation: Part
    test: Part
    d_out: int
    classes: bool
    """Whether y holds classes (the score is accuracy) or targets (the score is explained variance)."""
    n_experts: int = 8
    k: int = 2

    def loss(self, predicted: Float[Tensor, "n d_out"], y: Tensor) -> Float[Tensor, ""]:
        return F.cross_entropy(predicted, y) if self.classes else (predicted - y).square().mean()

    def score(self, predicted: Float[Tensor, "n d_out"], y: Tensor) -> Float[Tensor, ""]:
        """Larger is better, 1 is perfect: accuracy, or 1 - squared error / variance."""
        if self.classes:
            return (predicted.argmax(1) == y).float().mean()
        return 1 - (predicted - y).square().sum() / (y - y.mean(0)).square().sum()


def digits(seed: int) -> Task:
    """scikit-learn's 1,797 digits of 8 x 8 pixels: eight affine experts, each by itself a softmax regression."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    x = torch.as_tensor(data.data, dtype=torch.float32)
    x = (x - x.mean(0)) / (x.std(0) + 1e-3)
    return _split("digits", x, torch.as_tensor(data.target), None, 10, True, seed)


def regimes_by_distance(seed: int) -> Task:
    """Eight affine maps, each in force around its own centre: borders between linear scores, as a Top-k gate draws them."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=random)
    centres = torch.randn(8, D, generator=random)
    return _regimes("regimes-by-distance", x, torch.cdist(x, centres).argmin(1), random, seed)


def regimes_by_tree(seed: int) -> Task:
    """Eight affine maps at the leaves of a tree of random oblique splits: borders as a COMET gate draws them."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=random)
    left = x @ torch.randn(D, 7, generator=random) > 0
    node = torch.zeros(N, dtype=torch.long)
    for _ in range(3):
        node = 2 * node + 2 - left.gather(1, node[:, None])[:, 0].long()
    return _regimes("regimes-by-tree", x, node - 7, random, seed)


TASKS: dict[str, Callable[[int], Task]] = {
    "digits": digits,
    "regimes-by-distance": regimes_by_distance,
    "regimes-by-tree": regimes_by_tree,
}
N, D, D_OUT = 4000, 8, 4
NOISE = 0.1
"""Standard deviation of what is added to the planted targets, whose own is about 3."""


def _regimes(name: str, x: Tensor, regime: Tensor, random: torch.Generator, seed: int) -> Task:
    maps = torch.randn(8, D, D_OUT, generator=random)
    offsets = torch.randn(8, D_OUT, generator=random)
    y = torch.einsum("nd,ndo->no", x, maps[regime]) + offsets[regime]
    y = y + NOISE * torch.randn(y.shape, generator=random)
    return _split(name, x, y, regime, D_OUT, False, seed)


def _split(name: str, x: Tensor, y: Tensor, regime: Tensor | None, d_out: int, classes: bool, seed: int) -> Task:
    """60 % for training, 20 % for choosing when to stop, 20 % for the score."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    cuts = (len(x) * 6 // 10, len(x) * 8 // 10)
    parts = [
        Part(x[rows], y[rows], rows, None if regime is None else regime[rows])
        for rows in order.tensor_split(torch.tensor(cuts))
    ]
    return Task(name, *parts, d_out=d_out, classes=classes)
