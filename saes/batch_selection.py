"""What BatchTopK coders share: the k * n largest pre-activations of a batch, and the threshold that stands in for it later."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparse_rep.kernels import ops
from sparse_rep.saes.encoder import EncoderDictionary
from sparse_rep.saes.ranks import current
from sparse_rep.saes.shapes import may_ask

FEWEST_SLOTS = 64


def slots(k: float, n_latents: int) -> int:
    """Most latents that one token may use in a training batch: 4 k, and never under 64 (ours; the papers set no bound).

    It makes the search for a batch's largest entries one of its tokens' largest entries, so that no (n, m) matrix and no
    shape that depends on data is needed. Nothing changes unless a token would use more: see `selected`.
    """
    return min(n_latents, max(int(4 * k), FEWEST_SLOTS))


@torch.no_grad()
def selected(values: Float[Tensor, "n w"], k: float) -> Tensor:
    """Mask (n, w) of the int(k * n) largest positive entries of a batch (Bussmann et al. 2024, arXiv 2412.06410, section 3).

    `values` are each token's w largest pre-activations. Equal values at the boundary are all kept. The choice is that among
    all n * m pre-activations unless a token has all its w slots selected.
    """
    ranks = current()
    keep = min(max(int(k * len(values) * ranks.world), 1), values.numel() * ranks.world)
    mine = values.flatten().topk(min(keep, values.numel()), sorted=False).values
    least = mine.amin() if ranks.world == 1 else ranks.gather(mine).flatten().topk(keep, sorted=False).values.amin()
    return (values >= least) & (values > 0)


def kept(
    values: Float[Tensor, "n w"], indices: Int[Tensor, "n w"], mask: Tensor
) -> tuple[Float[Tensor, "n w"], Int[Tensor, "n w"]]:
    """Codes with the slots outside the mask emptied; narrower where that costs no wait for the device."""
    values, indices = torch.where(mask, values, 0), torch.where(mask, indices, -1)
    if not may_ask(values):
        return values, indices
    width = max(int(mask.sum(-1).max()), 1)  # slots are sorted by value, so those kept come first
    return values[:, :width], indices[:, :width]


@final
class BatchThreshold(nn.Module):
    """Mean over training batches of the least selected value: the threshold at inference (Bussmann et al. 2024, section 3).

    A plain mean over the first 1 / rate batches, from then on a running one. No operation waits for the device.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.value: Tensor
        self.batches: Tensor
        self.register_buffer("value", torch.zeros(()))
        self.register_buffer("batches", torch.zeros(()))

    @torch.no_grad()
    def update(self, values: Float[Tensor, "n w"], mask: Tensor) -> None:
        """A batch in which nothing was selected changes nothing."""
        least = torch.where(mask, values, torch.inf).amin().to(self.value.dtype)
        seen = torch.isfinite(least)
        weight = (1 / (self.batches + 1)).clamp(min=self.rate)
        self.value.copy_(torch.where(seen, torch.lerp(self.value, least, weight), self.value))
        self.batches.add_(seen)


def batch_codes(
    coder: EncoderDictionary, x: Float[Tensor, "n d"], k: float, threshold: BatchThreshold
) -> tuple[Float[Tensor, "n w"], Int[Tensor, "n w"], Tensor]:
    """Codes of scaled input in training, with the mask of what the batch selected; `threshold` learns from them."""
    width = slots(k, coder.n_latents)
    values, indices = ops.topk_encode(
        x, coder.W_enc, coder.b_enc, width, coder.centre, select_fp32=True, backend=coder.backend, check=False
    )
    mask = selected(values, k)
    threshold.update(values, mask)
    return *kept(values, indices, mask), mask
