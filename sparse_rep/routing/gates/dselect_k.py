"""DSelect-k: k learned selectors, each a binary code that names an expert."""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparse_rep.routing.gates.gate import Gate, Gated
from sparse_rep.routing.gates.smooth_step import plogp, smooth_step


@final
class DSelectKGate(Gate):
    """DSelect-k, one choice a token (Hazimeh et al. 2021, arXiv 2106.03760, section 3).

    A selector has ceil(log2 E) bits, each a smooth step of a linear map of the token; expert i's share of it is the product over
    its bits of the bit or its complement. The k selectors are averaged by a softmax that also depends on the token. Where E
    is no power of 2 some codes name no expert: weights then sum to less than 1, and the penalty 1 / sum keeps them from it.

    Args:
        width: of the smooth step.
        entropy: weight of the entropy of the selectors, which drives the bits to 0 and 1.
    """

    width: Tensor
    entropy: Tensor
    codes: Tensor

    def __init__(self, d: int, n_experts: int, k: int, *, width: float = 1.0, entropy: float = 0.0) -> None:
        super().__init__(n_experts, k)
        self.n_bits = max(1, math.ceil(math.log2(n_experts)))
        self.bits = nn.Linear(d, k * self.n_bits)
        self.selectors = nn.Linear(d, k)
        nn.init.uniform_(self.bits.weight, -width / 100, width / 100)
        nn.init.uniform_(self.bits.bias, -width / 100, width / 100)
        self.constant("width", width)
        self.constant("entropy", entropy)
        codes = torch.arange(n_experts)[:, None] >> torch.arange(self.n_bits) & 1
        self.register_buffer("codes", codes.bool(), persistent=False)

    def forward(self, x: Float[Tensor, "n d"], ids: Tensor | None = None) -> Gated:
        ones = smooth_step(self.bits(x), self.width).view(-1, self.k, 1, self.n_bits)
        share = torch.ones_like(ones[..., 0]).expand(-1, -1, self.n_experts)
        for bit in range(self.n_bits):
            share = share * torch.where(self.codes[:, bit], ones[..., bit], 1 - ones[..., bit])
        weights = torch.einsum("nk,nke->ne", self.selectors(x).softmax(1), share)
        penalty = self.entropy * -plogp(share).sum((1, 2)).mean()
        if self.n_experts != 2**self.n_bits:
            penalty = penalty + self.entropy * (1 / share.sum(2).clamp_min(1e-6)).sum(1).mean()
        return Gated(weights, penalty)
