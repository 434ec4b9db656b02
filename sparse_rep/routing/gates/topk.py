"""The usual gate: softmax over the k largest logits."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sparse_rep.routing.balance import balance_loss
from sparse_rep.routing.gates.gate import Gate, Gated


@final
class TopKGate(Gate):
    """Noisy Top-k (Shazeer et al. 2017, arXiv 1701.06538, eqs. 3 to 5): h = W x + noise * softplus(W_n x).

    The noise is standard normal, and there in training only. An expert that is left out receives no gradient.

    Args:
        noisy: whether there is noise at all.
        balance: weight of the load-balance loss.
    """

    balance: Tensor

    def __init__(self, d: int, n_experts: int, k: int, *, noisy: bool = True, balance: float = 0.0) -> None:
        super().__init__(n_experts, k)
        self.logits = nn.Linear(d, n_experts)
        self.spread = nn.Linear(d, n_experts) if noisy else None
        self.constant("balance", balance)

    def forward(self, x: Float[Tensor, "n d"], ids: Tensor | None = None) -> Gated:
        logits = self.logits(x)
        if self.spread is not None and self.training:
            logits = logits + torch.randn_like(logits) * F.softplus(self.spread(x))
        top, chosen = logits.topk(self.k, dim=1)
        weights = torch.zeros_like(logits).scatter(1, chosen, top.softmax(1))
        return Gated(weights, self.balance * balance_loss(logits.softmax(1), chosen))
