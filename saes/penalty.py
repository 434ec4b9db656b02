"""The weight of a sparsity penalty: fixed after a warm-up, or steered to a wanted number of active latents."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from sparse_rep.config_dictionary import PenaltySettings


@final
class PenaltyWeight(nn.Module):
    """Warm-up in training tokens (Bricken et al. 2024: 5 % of training); steering is ours and never waits for the device.

    With `target_l0` the weight is multiplied each step, after the warm-up, by exp(rate * log(L0 / target)), the logarithm
    cut to -1..1: sparser than wanted lowers it, denser raises it.
    """

    def __init__(self, settings: PenaltySettings) -> None:
        super().__init__()
        self.target_l0, self.rate = settings.target_l0, settings.penalty_rate
        self.warmup_tokens = settings.penalty_warmup_tokens
        self.value: Tensor
        self.register_buffer("value", torch.tensor(float(settings.penalty)))

    def now(self, tokens_seen: int) -> Tensor:
        """The weight of this step, a scalar on the device."""
        return self.value * self._rise(tokens_seen)

    @torch.no_grad()
    def steer(self, l0: Tensor, tokens_seen: int) -> None:
        """Follow the L0 of the batch just seen."""
        if self.target_l0 is not None and self._rise(tokens_seen) == 1.0:
            distance = (l0.clamp(min=1e-3) / self.target_l0).log().clamp(-1, 1)
            self.value.mul_(torch.exp(self.rate * distance))

    def _rise(self, tokens_seen: int) -> float:
        return min(tokens_seen / self.warmup_tokens, 1.0) if self.warmup_tokens else 1.0
