"""Loss and gradients of a stack of TopK or BatchTopK coders on the same tokens, written out.

No autograd graph, no (n, m) matrix, no wait for the device. B coders of equal shape are one wide coder: their encoders are
one product of B * m columns, and a (token, coder) pair is one row of codes. For each such row, with x the scaled activations,
c a fixed centre and z the codes:

    z = TopK(relu(W_enc (x - c) + b_enc - W_enc (b_dec - c)))      error = x - (z W_dec + b_dec)      loss = |error|^2 / variance

Gradients are returned "raw": those of the loss are -2 / variance times them, a factor that the optimiser applies. Centring
about c keeps 16-bit operands small; what it leaves out of the encoder's gradient is rank one and added where a row is at
hand. The specification is `TopK.loss` and `BatchTopK.loss` with autograd.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.kernels.product import Product
from sparse_rep.kernels.residual import residual
from sparse_rep.kernels.scatter import ReverseIndex, latent_gradient
from sparse_rep.kernels.select import scratch_bytes, select
from sparse_rep.saes.ranks import current
from sparse_rep.saes.training.stacking import wide_bmm
from sparse_rep.saes.training.topk_auxk import AuxK, add_auxk
from sparse_rep.saes.training.topk_operands import Operands


@dataclass(frozen=True)
class Gradients:
    """Raw gradients, their squared norm a member, and what is reported."""

    W_enc: Float[Tensor, "B m d"]
    W_dec: Float[Tensor, "B m d"]
    b_enc: Float[Tensor, "B m"]
    b_dec: Float[Tensor, "B d"]
    squared_norm: Float[Tensor, " B"]
    """Of the decoder's gradient only what is across its atoms."""
    factor: Float[Tensor, ""]
    """Raw times this is the gradient of the loss."""
    losses: dict[str, Float[Tensor, " B"]]
    least: Float[Tensor, " B"] | None
    """BatchTopK: the least value kept, infinite where none was."""


def topk_gradients(
    x: Float[Tensor, "n d"], w: Operands, tokens_since_fired: Int[Tensor, "B m"], auxk: AuxK | None
) -> Gradients:
    """One batch's gradients. `tokens_since_fired` is brought up to date in place; `auxk` None leaves the AuxK loss out."""
    B, m, d = w.W_enc.shape
    n, dtype = len(x), w.W_enc.dtype
    ranks = current()
    total = (_squared_deviation(x) / w.scale**2).clamp(min=1e-12)
    centred = torch.addcmul(-w.centre, x, 1 / w.scale).to(dtype)
    shift = w.b_dec - w.centre
    bias = w.b_enc - wide_bmm(w.W_enc, shift[:, :, None].to(dtype))[..., 0]

    values, indices = _encode(centred, w.W_enc.view(B * m, d), bias.view(B * m), w, B)
    least = None
    if w.batch_k is not None:
        indices, least = _keep_of_batch(values, indices, w.batch_k, B)
    error, squares = residual(values, indices, w.W_dec.view(B * m, d), w.b_dec, x, w.scale)
    squared_error = ranks.sum_(squares.view(n, B).sum(0))

    index = ReverseIndex.of(indices, B * m)
    used = ranks.any(index.offsets.diff().view(B, m) > 0)
    tokens_since_fired.copy_(torch.where(used, 0, tokens_since_fired + n * ranks.world))
    dW_dec, dW_enc = torch.empty_like(w.W_dec), torch.empty_like(w.W_enc)
    d_values, decoder = latent_gradient(index, values, error, w.k, dW_dec.view(B * m, d), w.W_dec.view(B * m, d))
    assert d_values is not None
    _, encoder = latent_gradient(index, d_values, centred, w.k * B, dW_enc.view(B * m, d), shift=shift)

    across = (decoder.squares - decoder.along.square()).clamp(min=0).view(B, m)
    row_squares, db_enc = across + encoder.squares.view(B, m), encoder.totals.view(B, m)
    losses = {"fvu": squared_error / total}
    losses["loss"] = losses["fvu"]
    if auxk is not None:
        extra = add_auxk(auxk, centred, error.view(n, B, d), squared_error, total, bias, shift, w, tokens_since_fired)
        extra.merge(dW_enc, dW_dec, db_enc, row_squares)
        losses["aux"] = extra.loss
        losses["loss"] = losses["fvu"] + auxk.coefficient * extra.loss
    db_dec = error.view(n, B, d).sum(0, dtype=torch.float32) - wide_bmm(db_enc[:, None].to(dtype), w.W_enc)[:, 0]
    active = (indices >= 0).view(n, B * w.k).sum(0).view(B, w.k).sum(-1)
    losses["l0"] = ranks.sum_(active) / (n * ranks.world)
    if ranks.world > 1:
        for gradient in (dW_enc.view(B * m, d), dW_dec.view(B * m, d), db_enc, db_dec):
            ranks.sum_gradient(gradient)
        row_squares = _row_squares(dW_enc) + _row_squares(dW_dec) - (dW_dec * w.W_dec).sum(-1).float().square()
    norm2 = row_squares.sum(-1) + db_enc.square().sum(-1) + db_dec.square().sum(-1)
    return Gradients(dW_enc, dW_dec, db_enc, db_dec, norm2, -2 / total, losses, least)


def _squared_deviation(x: Tensor) -> Tensor:
    """Of the rows of all ranks from their mean, summed."""
    ranks = current()
    if ranks.world == 1:
        return torch.var(x, 0, correction=0).sum() * len(x)
    return ranks.sum_((x - ranks.mean(x.mean(0))).square().sum())


def _row_squares(gradient: Tensor) -> Tensor:
    return torch.linalg.vector_norm(gradient, dim=-1, dtype=torch.float32).square()


def _encode(centred: Tensor, W: Tensor, bias: Tensor, w: Operands, B: int) -> tuple[Tensor, Tensor]:
    """values, indices (n * B, k): a chunk's product for all members, then a search in each member's span of columns."""
    n, m = len(centred), len(W) // B
    values = torch.empty((n * B, w.k), dtype=torch.float32, device=W.device)
    indices = torch.empty((n * B, w.k), dtype=torch.int64, device=W.device)
    product = Product(centred, W, bias, W.dtype, B * scratch_bytes(w.k, W.dtype))
    for row in range(0, n, product.rows):
        pre, maxima = product.run(row)
        rows = slice(row * B, (row + len(pre)) * B)
        # One member may end inside a group of columns; several end at one (`fits` sees to it), and then this is a view.
        by_member = (pre.view(-1, m), maxima.view(-1, m // product.width)) if B > 1 else (pre, maxima)
        select(*by_member, w.k, product.width, True, values[rows], indices[rows])
    if B > 1:
        offset = torch.arange(0, B * m, m, device=W.device).repeat(n)[:, None]
        kept = indices >= 0 if w.k_mask is None else (indices >= 0) & w.k_mask.repeat(n, 1)
        indices = torch.where(kept, indices + offset, -1)
    return values, indices


def _keep_of_batch(values: Tensor, indices: Tensor, k: float, B: int) -> tuple[Tensor, Tensor]:
    """Indices with the slots emptied that are not among a member's k * n largest, and its least value kept.

    As `batch_selection.selected`: equal values at the boundary are all kept.
    """
    by_member = values.view(-1, B, values.shape[1]).transpose(0, 1).reshape(B, -1)
    world = current().world
    keep_of_all = min(max(int(k * (len(values) // B) * world), 1), by_member.shape[1] * world)
    keep = min(keep_of_all, by_member.shape[1])
    bar = by_member.topk(keep, sorted=False).values
    if world > 1:
        bar = current().gather(bar).transpose(0, 1).flatten(1).topk(keep_of_all, sorted=False).values
    bar = bar.amin(-1)
    mask = (values >= bar.repeat(len(values) // B)[:, None]) & (values > 0)
    least = torch.where(by_member > 0, torch.where(by_member >= bar[:, None], by_member, torch.inf), torch.inf).amin(-1)
    return torch.where(mask, indices, -1), current().least(least)
