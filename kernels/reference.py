"""The specification of every kernel, in plain torch. Slow where slow is clearer; exact everywhere.

Ties go to the lowest index. Rows are independent. Every function works in the dtype it is given and is differentiable
with respect to its floating inputs; the choice of indices carries no gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _stable_topk(scores: Float[Tensor, "n m"], k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, sorted, equal values in order of index (torch.topk promises no order among ties)."""
    values, indices = scores.sort(dim=-1, descending=True, stable=True)
    return values[:, :k], indices[:, :k]


def topk_encode(
    x: Float[Tensor, "n d"],
    W_enc: Float[Tensor, "m d"],
    b_enc: Float[Tensor, " m"],
    k: int,
    b_dec: Float[Tensor, " d"] | None = None,
    relu: bool = True,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k largest pre-activations `(x - b_dec) W_enc^T + b_enc` of each row, sorted by value.

    With `relu`, a chosen pre-activation that is not positive becomes an empty slot: value 0, index -1.
    """
    pre = (x if b_dec is None else x - b_dec) @ W_enc.T + b_enc
    values, indices = _stable_topk(pre, k)
    if not relu:
        return values, indices
    empty = values <= 0  # not "~(values > 0)": a NaN stays, for the caller to see
    return torch.where(empty, 0, values), torch.where(empty, -1, indices)


def threshold_encode(
    x: Float[Tensor, "n d"],
    W_enc: Float[Tensor, "m d"],
    b_enc: Float[Tensor, " m"],
    threshold: Float[Tensor, " m"],
    b_dec: Float[Tensor, " d"] | None = None,
) -> tuple[Int[Tensor, " nnz"], Int[Tensor, " nnz"], Float[Tensor, " nnz"]]:
    """Every pre-activation strictly above its latent's threshold, as (row, latent, value) sorted by row then latent."""
    pre = (x if b_dec is None else x - b_dec) @ W_enc.T + b_enc
    rows, latents = (pre > threshold).nonzero(as_tuple=True)
    return rows, latents, pre[rows, latents]


def batch_topk(pre: Float[Tensor, "n m"], k: int) -> Float[Tensor, "n m"]:
    """Keep the n*k largest positive entries of the whole batch (BatchTopK, Bussmann et al. 2024), zero the rest."""
    n_keep = min(pre.shape[0] * k, pre.numel())
    order = pre.flatten().sort(descending=True, stable=True).indices[:n_keep]
    kept = torch.zeros(pre.numel(), dtype=torch.bool, device=pre.device)
    kept[order] = True
    return torch.where(kept.view_as(pre) & (pre > 0), pre, 0)


def sparse_decode(
    values: Float[Tensor, "n k"],
    indices: Int[Tensor, "n k"],
    W_dec: Float[Tensor, "m d"],
    b_dec: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, "n d"]:
    """`sum_j values[:, j] * W_dec[indices[:, j]] + b_dec`; slots with index -1 add nothing."""
    weights = torch.where(indices >= 0, values, 0)
    rows = W_dec[indices.clamp(min=0).long()]
    out = torch.einsum("nk,nkd->nd", weights.to(rows.dtype), rows)
    return out if b_dec is None else out + b_dec


def matching_pursuit(
    x: Float[Tensor, "n d"],
    atoms: Float[Tensor, "m d"],
    k: int,
    tol: float = 0.0,
    nonnegative: bool = True,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """k steps of matching pursuit on unit atoms (Mallat & Zhang 1993; as an encoder, arXiv 2506.03093, A.1).

    Returns the step values, the atom of each step in order of selection (an atom may come again) and the residual norm
    after each step (which carries no gradient). A row stops, its later slots empty, once its residual norm is no more than
    `tol` or, with `nonnegative`, once no correlation is positive.
    """
    residual = x
    alive = torch.ones(len(x), dtype=torch.bool, device=x.device)
    values, indices, norms = [], [], []
    for _ in range(k):
        with torch.no_grad():
            scores = residual @ atoms.T
            best = scores if nonnegative else scores.abs()
            atom = best.argmax(dim=-1)
            alive = alive & (residual.norm(dim=-1) > tol) & (best.gather(1, atom[:, None])[:, 0] > 0)
        row = atoms[atom]
        value = torch.where(alive, (row * residual).sum(-1), 0)
        residual = residual - value[:, None] * row
        values.append(value)
        indices.append(torch.where(alive, atom, -1))
        norms.append(residual.detach().norm(dim=-1))
    return torch.stack(values, -1), torch.stack(indices, -1), torch.stack(norms, -1)


def orthogonal_matching_pursuit(
    x: Float[Tensor, "n d"], atoms: Float[Tensor, "m d"], k: int, tol: float = 0.0
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """k steps of orthogonal matching pursuit (Pati et al. 1993): largest |correlation|, then a least-squares refit.

    Returns the values of the last fit, the atoms in order of selection and the residual norm after each step.
    """
    values, indices, norms = (
        x.new_zeros(len(x), k),
        torch.full((len(x), k), -1, device=x.device),
        x.new_zeros(len(x), k),
    )
    for row, target in enumerate(x):
        chosen: list[int] = []
        residual = target
        for step in range(k):
            if residual.norm() > max(tol, 1e-6 * float(target.norm())):
                chosen.append(int((atoms @ residual).abs().argmax()))
                fit = torch.linalg.lstsq(atoms[chosen].T, target[:, None]).solution[:, 0]
                residual = target - fit @ atoms[chosen]
                values[row, : len(chosen)] = fit
            norms[row, step] = residual.norm()
        indices[row, : len(chosen)] = torch.tensor(chosen, dtype=torch.int64, device=x.device)
    return values, indices, norms
