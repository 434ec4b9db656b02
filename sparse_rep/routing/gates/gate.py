"""What a gate is: weights over experts, most of them exactly 0, and what training pays for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparse_rep.codes import SparseCodes
from sparse_rep.errors import ConfigError


class Gated(NamedTuple):
    """What a gate made of a batch."""

    weights: Float[Tensor, "n e"]
    """Weight of each expert for each token, exactly 0 where it is not used."""
    penalty: Float[Tensor, ""]
    """To be added to the loss, already weighted."""


class Gate(nn.Module, ABC):
    """A router over `n_experts` that uses about k of them a token.

    Strengths and widths are buffers and nothing depends on values in Python, so that `torch.func.stack_module_state` and `vmap`
    run many gates of one kind as one, each with its own settings.
    """

    def __init__(self, n_experts: int, k: int) -> None:
        super().__init__()
        if not 1 <= k <= n_experts:
            raise ConfigError(f"a gate uses 1 to {n_experts} of its {n_experts} experts a token, not {k}")
        self.n_experts, self.k = n_experts, k

    @abstractmethod
    def forward(self, x: Float[Tensor, "n d"], ids: Int[Tensor, " n"] | None = None) -> Gated:
        """Route a batch; `ids` names each token (its vocabulary id, its user) for gates that route by name."""

    def route(self, x: Float[Tensor, "n d"], ids: Int[Tensor, " n"] | None = None) -> SparseCodes:
        """The experts in use and their weights, as sparse codes."""
        return SparseCodes.from_dense(self(x, ids).weights)

    def constant(self, name: str, value: float) -> None:
        """Keep a setting as a buffer."""
        self.register_buffer(name, torch.tensor(float(value)))
