"""A layer of small experts behind any gate: where gates are compared, and where routing can be watched while it is learned."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparse_rep.routing.gates.gate import Gate


@final
class MoeLayer(nn.Module):
    """y = sum_e g_e(x) f_e(x): affine experts, or with `d_hidden` two-layer ReLU networks.

    Training computes every expert for every token, as the published comparisons of gates do; `conditional` computes what the
    gate uses.

    Attributes:
        at_most: keep only so many of the heaviest experts of a token, their weights scaled to the same sum; None keeps all that
            the gate uses, which for a soft gate may be more than its k.
    """

    at_most: int | None = None

    def __init__(self, gate: Gate, d_in: int, d_out: int, d_hidden: int | None = None) -> None:
        super().__init__()
        self.gate = gate
        widths = [d_in, d_out] if d_hidden is None else [d_in, d_hidden, d_out]
        shapes = list(pairwise(widths))
        n = gate.n_experts
        self.weights = nn.ParameterList(_uniform(n, a, b, fan_in=a) for a, b in shapes)
        self.biases = nn.ParameterList(_uniform(n, 1, b, fan_in=a) for a, b in shapes)

    def forward(
        self, x: Float[Tensor, "n d_in"], ids: Int[Tensor, " n"] | None = None
    ) -> tuple[Float[Tensor, "n d_out"], Float[Tensor, "n e"], Float[Tensor, ""]]:
        """Output, the gate's weights, and its penalty."""
        weights, penalty = self.gate(x, ids)
        weights = self._kept(weights)
        y = self._experts(x.expand(self.gate.n_experts, -1, -1))
        return torch.einsum("ne,end->nd", weights, y), weights, penalty

    @torch.no_grad()
    def conditional(self, x: Float[Tensor, "n d_in"], ids: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n d_out"]:
        """The same output, each expert seeing only the tokens that use it."""
        weights = self._kept(self.gate(x, ids).weights)
        out = x.new_zeros(len(x), self.weights[-1].shape[-1])
        for expert in range(self.gate.n_experts):
            rows = weights[:, expert].nonzero().squeeze(1)
            y = self._experts(x[rows][None], slice(expert, expert + 1))[0]
            out.index_add_(0, rows, weights[rows, expert, None] * y)
        return out

    def _kept(self, weights: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
        if self.at_most is None:
            return weights
        values, chosen = weights.topk(self.at_most, dim=1)
        values = values * (weights.sum(1, keepdim=True) / values.sum(1, keepdim=True))
        return torch.zeros_like(weights).scatter(1, chosen, values)

    def _experts(self, x: Float[Tensor, "e n d_in"], which: slice = slice(None)) -> Float[Tensor, "e n d_out"]:
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias[which], x.relu() if layer else x, weight[which])
        return x


def _uniform(n: int, rows: int, columns: int, fan_in: int) -> nn.Parameter:
    """torch's own initialisation of a linear layer, for each of n."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(n, rows, columns).uniform_(-bound, bound))
