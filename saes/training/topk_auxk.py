"""AuxK for a stack of TopK coders, written out: the specification is `auxk.auxk_loss` with autograd.

A fixed number of latents, the longest dead, compete for every token; their pre-activations are one small dense product, and
so are their gradients. Nothing depends on how many are dead but masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.kernels.keep_largest import keep_largest
from sparse_rep.saes.ranks import current
from sparse_rep.saes.training.stacking import wide_bmm
from sparse_rep.saes.training.topk_operands import Operands


@dataclass(frozen=True)
class AuxK:
    """Settings that a stack's members share, and the weight of the loss for each."""

    k_aux: int
    chosen: Int[Tensor, "B r"]
    """Latents looked at: those that were dead when last asked for, or the longest dead of more. Who fires drops out at once."""
    dead_after_tokens: int
    coefficient: Float[Tensor, " B"]


@dataclass(frozen=True)
class AuxKGradients:
    """Raw gradients (in the units of `topk_gradients`) of the rows at `chosen`."""

    chosen: Int[Tensor, "B r"]
    W_enc: Float[Tensor, "B r d"]
    W_dec: Float[Tensor, "B r d"]
    b_enc: Float[Tensor, "B r"]
    squares: Float[Tensor, "B r"]
    loss: Float[Tensor, " B"]

    def merge(self, dW_enc: Tensor, dW_dec: Tensor, db_enc: Tensor, row_squares: Tensor) -> None:
        """Add to the gradients, and to the squared norms of their rows. No token used these latents: their rows were zero."""
        B, m, d = dW_enc.shape
        at = (self.chosen + torch.arange(0, B * m, m, device=self.chosen.device)[:, None]).view(-1)
        for whole, mine in ((dW_enc, self.W_enc), (dW_dec, self.W_dec)):
            whole.view(B * m, d).index_add_(0, at, mine.reshape(-1, d).to(whole.dtype))
        db_enc.scatter_add_(1, self.chosen, self.b_enc)
        row_squares.scatter_add_(1, self.chosen, self.squares)


def add_auxk(
    aux: AuxK,
    centred: Float[Tensor, "n d"],
    error: Float[Tensor, "n B d"],
    squared_error: Float[Tensor, " B"],
    total: Float[Tensor, ""],
    bias: Float[Tensor, "B m"],
    shift: Float[Tensor, "B d"],
    w: Operands,
    tokens_since_fired: Int[Tensor, "B m"],
) -> AuxKGradients:
    """Loss and raw gradients of how well the k_aux strongest dead latents predict the error."""
    B, n, d = len(shift), len(centred), centred.shape[1]
    chosen = aux.chosen
    dead = tokens_since_fired.gather(1, chosen) >= aux.dead_after_tokens
    n_dead = dead.sum(1)
    at = chosen[:, :, None].expand(-1, -1, d)
    W_enc, W_dec = w.W_enc.gather(1, at), w.W_dec.gather(1, at)
    # A latent that is not dead gets a bias that keeps it out.
    out_of_it = torch.where(dead, bias.gather(1, chosen), -torch.inf).to(W_enc.dtype)
    shared = centred.expand(B, n, d)
    values = torch.baddbmm(out_of_it[:, None], shared, W_enc.mT)
    keep_largest(values.view(B * n, chosen.shape[1]), aux.k_aux)
    missed = torch.baddbmm(error.transpose(0, 1), values, W_dec, alpha=-1)
    missed_squares = current().sum_(torch.linalg.vector_norm(missed, dim=(1, 2), dtype=torch.float32).square())

    strength = (n_dead / aux.k_aux).clamp(max=1)
    loss = strength * missed_squares / squared_error.clamp(min=1e-12)
    # Raw gradients are in units of -2 / total: this loss's own are -2 times weight / squared_error.
    ratio = (aux.coefficient * strength * total / squared_error.clamp(min=1e-12))[:, None, None]
    dW_dec = torch.bmm(values.mT, missed) * ratio
    # One pass: zero where the value is.
    d_values = torch.ops.aten.threshold_backward(missed @ W_dec.mT, values, 0)
    ones = centred.new_ones((n, 1))
    db_enc = wide_bmm(d_values.mT, ones.expand(B, n, 1))[..., 0] * ratio[..., 0]
    dW_enc = torch.bmm(d_values.mT, shared) * ratio - db_enc[..., None] * shift[:, None]
    along = (dW_dec.float() * W_dec).sum(-1)
    squares = dW_dec.float().square().sum(-1) - along.square() + dW_enc.square().sum(-1)
    return AuxKGradients(chosen, dW_enc, dW_dec, db_enc, squares, loss)
