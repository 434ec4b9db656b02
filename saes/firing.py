"""When each latent last fired, in tokens: what "dead" means."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from sparse_rep.saes.ranks import current


@final
class FiringCounter(nn.Module):
    """Training tokens since each of m latents last fired. Every operation has a fixed shape and none waits for the device.

    `tokens_seen` counts on the host, so schedules can depend on it without asking the device; it is saved with the rest.
    """

    def __init__(self, n_latents: int, dead_after_tokens: int) -> None:
        super().__init__()
        self.dead_after_tokens = dead_after_tokens
        self.tokens_seen = 0
        self.tokens_since_fired: Tensor
        self.register_buffer("tokens_since_fired", torch.zeros(n_latents, dtype=torch.int64))

    @torch.no_grad()
    def note(self, indices: Int[Tensor, "n k"], n_tokens: int) -> None:
        """Latents named in padded codes have fired; empty slots (-1) name none."""
        m = len(self.tokens_since_fired)
        named = torch.where(indices >= 0, indices, m).flatten().long()
        fired = torch.zeros(m + 1, dtype=torch.bool, device=indices.device).scatter(0, named, True)
        self.note_mask(fired[:m], n_tokens)

    @torch.no_grad()
    def note_mask(self, fired: Bool[Tensor, " m"], n_tokens: int) -> None:
        """The same, given which latents fired on any of the tokens; other ranks' tokens count too."""
        ranks = current()
        fired, n_tokens = ranks.any(fired), n_tokens * ranks.world
        self.tokens_since_fired.copy_(torch.where(fired, 0, self.tokens_since_fired + n_tokens))
        self.tokens_seen += n_tokens

    @property
    def dead(self) -> Bool[Tensor, " m"]:
        """Latents that no token has used for `dead_after_tokens` training tokens."""
        return self.tokens_since_fired >= self.dead_after_tokens

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.tokens_seen)

    def set_extra_state(self, state: Tensor) -> None:
        self.tokens_seen = int(state)
