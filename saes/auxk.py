"""AuxK: dead latents learn to predict the error of the live ones (Gao et al. 2024, arXiv 2406.04093, A.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_rep.saes.firing import FiringCounter
from sparse_rep.saes.ranks import current
from sparse_rep.saes.shapes import may_ask


def default_k_aux(d_in: int) -> int:
    """Dead latents used a token: a power of two near d / 2 in Gao et al., B.1; here d / 2 itself."""
    return max(d_in // 2, 1)


def reach(n_latents: int, k_aux: int) -> int:
    """Latents looked at, a fixed number so that no step asks the device how many are dead. The bound is ours."""
    return min(n_latents, max(2 * k_aux, n_latents // 8))


def auxk_loss(
    x: Float[Tensor, "n d"],
    error: Float[Tensor, "n d_out"],
    W_enc: Float[Tensor, "m d"],
    b_enc: Float[Tensor, " m"],
    W_dec: Float[Tensor, "m d_out"],
    firing: FiringCounter,
    k_aux: int,
) -> Float[Tensor, ""]:
    """Share of the (detached) error that the k_aux strongest dead latents fail to predict; 0 where none is dead.

    `x` is what the encoder multiplies (centred and scaled). The `reach` longest dead latents compete: all of them, unless
    more are dead than that. With fewer than k_aux dead the loss is scaled down: they cannot be expected to explain the
    whole error. Both W_enc and W_dec get gradient: dead latents learn to fire where the error is.
    """
    error = error.detach()
    n_dead = firing.dead.sum()
    if may_ask(error) and n_dead == 0:  # on a CPU it costs nothing to ask
        return error.new_zeros(())
    age, chosen = firing.tokens_since_fired.topk(reach(len(W_enc), k_aux))
    # index_select: its backward is an addition of rows, where that of [chosen] sorts them first.
    pre = torch.addmm(b_enc.index_select(0, chosen), x, W_enc.index_select(0, chosen).T).relu()
    values = torch.where(age >= firing.dead_after_tokens, pre, 0)
    if values.shape[1] > k_aux:
        least = values.detach().topk(k_aux, sorted=False).values.amin(-1, keepdim=True)
        values = torch.where(values >= least, values, 0)
    whole = current().mean(error.square().sum()).clamp(min=1e-12)
    missed = (error - values @ W_dec.index_select(0, chosen)).square().sum() / whole
    return (n_dead.to(error.dtype) / k_aux).clamp(max=1) * missed
