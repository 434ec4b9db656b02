"""The public operations: checked arguments, and a choice of implementation made a call, never at import.

`backend` is "auto" (Triton on CUDA, plain torch elsewhere), "triton", "torch" or "reference" (the specification, slow);
`backend_name` says what it comes to.
Inside `torch.autocast` the operands of products are cast as torch casts those of a linear layer. `check` turns on the
checks that read whole tensors (NaN, unit rows, index range) and so wait for the device; without it a NaN or infinity in x
makes that row's values (for pursuit: its norms) NaN or infinite and leaves other rows alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparse_rep.kernels import checks, reference
from sparse_rep.kernels.batch_topk import batch_topk as _batch_topk
from sparse_rep.kernels.decode import SparseDecode, decode_torch
from sparse_rep.kernels.dispatch import Backend, backend_name, choose
from sparse_rep.kernels.orthogonal_pursuit import orthogonal_pursuit
from sparse_rep.kernels.pursuit import MatchingPursuit, Method, resolve
from sparse_rep.kernels.pursuit import gram_matrix as _gram_matrix
from sparse_rep.kernels.threshold import ThresholdEncode
from sparse_rep.kernels.topk import TopKEncode

__all__ = [
    "Backend",
    "backend_name",
    "batch_topk",
    "gram_matrix",
    "matching_pursuit",
    "orthogonal_matching_pursuit",
    "sparse_decode",
    "threshold_encode",
    "topk_encode",
    "topk_encode_among",
]

GRAM_BUDGET = 4 * 2**30
"""Bytes that matching pursuit's Gram matrix may take unless told otherwise."""


def topk_encode(
    x: Float[Tensor, "n d"],
    W_enc: Float[Tensor, "m d"],
    b_enc: Float[Tensor, " m"],
    k: int,
    b_dec: Float[Tensor, " d"] | None = None,
    relu: bool = True,
    *,
    select_fp32: bool = False,
    backend: Backend = "auto",
    check: bool = True,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k largest pre-activations of each row: values in fp32 (fp64 for fp64 input), indices in int64.

    Exact, sorted by value, ties to the lowest index; see `reference.topk_encode`. bf16 input is selected on pre-activations
    rounded to bf16, as any bf16 product gives them, or on the fp32 accumulators with `select_fp32`; other types always on
    fp32 (fp64). Extra memory stays under 512 MiB on Triton. Gradients of x, W_enc, b_enc and b_dec come from the k entries.
    Raises ValueError where shapes, dtypes or devices disagree, k is outside 1..m or, with `check`, x is not finite.
    """
    x, W_enc, b_dec = _autocast(x, W_enc, b_dec)
    checks.require_encoder(x, W_enc, b_enc, b_dec)
    checks.require_k(k, len(W_enc))
    if check:
        checks.require_finite("x", x)
    choice = choose(backend, x.device, x.dtype)
    if choice == "reference":
        return reference.topk_encode(x, W_enc, b_enc, k, b_dec, relu)
    centred = _centred(x, b_dec)
    if choice == "triton" and not _selects_in_registers(k, len(W_enc)):
        choice = "torch"
    return TopKEncode.apply(centred, W_enc, b_enc, k, relu, select_fp32, choice)  # pyright: ignore[reportReturnType]


def topk_encode_among(
    x: Float[Tensor, "n d"],
    W_enc: Float[Tensor, "m d"],
    b_enc: Float[Tensor, " m"],
    k: int,
    among: Bool[Tensor, " m"],
    b_dec: Float[Tensor, " d"] | None = None,
    relu: bool = True,
    *,
    select_fp32: bool = False,
    backend: Backend = "auto",
    check: bool = True,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """`topk_encode` restricted to the latents where `among` holds, for AuxK: only their rows of W_enc are multiplied.

    Indices count all m latents. Where fewer than k latents are in the mask the last slots are empty (-1, 0).
    """
    if among.shape != b_enc.shape or among.dtype != torch.bool:
        raise ValueError(f"among {tuple(among.shape)} {among.dtype} must be a boolean mask of shape ({len(b_enc)},)")
    chosen = among.nonzero()[:, 0]
    reach = min(k, len(chosen))
    if reach == 0:
        empty = torch.full((len(x), k), -1, dtype=torch.int64, device=x.device)
        return torch.zeros((len(x), k), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device), empty
    values, local = topk_encode(
        x, W_enc[chosen], b_enc[chosen], reach, b_dec, relu, select_fp32=select_fp32, backend=backend, check=check
    )
    indices = torch.where(local >= 0, chosen[local.clamp(min=0)], -1)
    pad = (0, k - reach)
    return torch.nn.functional.pad(values, pad), torch.nn.functional.pad(indices, pad, value=-1)


def threshold_encode(
    x: Float[Tensor, "n d"],
    W_enc: Float[Tensor, "m d"],
    b_enc: Float[Tensor, " m"],
    threshold: Float[Tensor, " m"],
    b_dec: Float[Tensor, " d"] | None = None,
    *,
    backend: Backend = "auto",
    check: bool = True,
) -> tuple[Int[Tensor, " nnz"], Int[Tensor, " nnz"], Float[Tensor, " nnz"]]:
    """Every pre-activation above its latent's threshold: (row, latent, value), sorted; no (n, m) matrix.

    JumpReLU and BatchTopK at inference pass their thresholds, L1 zeros; a gate passes its gate's bias with threshold 0 and
    computes magnitudes from the values. Compared in fp32 for 16-bit input. The values carry gradient, the thresholds none.
    Raises ValueError as `topk_encode` does.
    """
    x, W_enc, b_dec = _autocast(x, W_enc, b_dec)
    checks.require_encoder(x, W_enc, b_enc, b_dec)
    if threshold.shape != b_enc.shape:
        raise ValueError(f"threshold {tuple(threshold.shape)} must hold one number a latent: ({len(b_enc)},)")
    checks.require_device("threshold", threshold, x)
    if check:
        checks.require_finite("x", x)
    choice = choose(backend, x.device, x.dtype)
    if choice == "reference":
        return reference.threshold_encode(x, W_enc, b_enc, threshold, b_dec)
    return ThresholdEncode.apply(_centred(x, b_dec), W_enc, b_enc, threshold, choice)  # pyright: ignore[reportReturnType]


def batch_topk(
    pre: Float[Tensor, "n m"], k: int, *, backend: Backend = "auto", check: bool = True
) -> Float[Tensor, "n m"]:
    """Keep the n * k largest positive entries of the whole batch, zero the rest; see `reference.batch_topk`.

    Raises ValueError where k is outside 1..m or, with `check`, an entry is not finite.
    """
    if pre.ndim != 2:
        raise ValueError(f"pre {tuple(pre.shape)} must be (n, m)")
    checks.require_k(k, pre.shape[1])
    if check:
        checks.require_finite("pre", pre)
    return reference.batch_topk(pre, k) if backend == "reference" else _batch_topk(pre, k)


def sparse_decode(
    values: Float[Tensor, "n k"],
    indices: Int[Tensor, "n k"],
    W_dec: Float[Tensor, "m d"],
    b_dec: Float[Tensor, " d"] | None = None,
    *,
    backend: Backend = "auto",
    check: bool = False,
) -> Float[Tensor, "n d"]:
    """`sum_j values[:, j] * W_dec[indices[:, j]] + b_dec` in W_dec's dtype; empty slots (-1) add nothing.

    No (n, k, d) buffer forward or backward, gradients deterministic; see `reference.sparse_decode`.
    Raises ValueError where shapes or devices disagree or, with `check`, an index is outside -1..m-1.
    """
    W_dec, b_dec = _autocast(W_dec, b_dec)
    checks.require_codes(values, indices, W_dec, b_dec)
    if check:
        checks.require_in_range(indices, len(W_dec))
    choice = choose(backend, W_dec.device, W_dec.dtype)
    if choice == "reference":
        return reference.sparse_decode(values, indices, W_dec, b_dec)
    if choice == "triton":
        checks.require_contiguous(W_dec=W_dec)
        return SparseDecode.apply(values.contiguous(), indices.contiguous(), W_dec, b_dec)  # pyright: ignore[reportReturnType]
    return decode_torch(values, indices, W_dec, b_dec)


def gram_matrix(atoms: Float[Tensor, "m d"], *, backend: Backend = "auto") -> Float[Tensor, "m m"]:
    """`atoms atoms^T`, its diagonal exactly 1: build it once for a dictionary that does not change.

    In the atoms' dtype, but fp16 for bf16 atoms: entries lie in [-1, 1], where fp16 is the more precise.

    No gradient flows through it: `matching_pursuit`'s own is complete. Raises ValueError where atoms are not a matrix.
    """
    if atoms.ndim != 2:
        raise ValueError(f"atoms {tuple(atoms.shape)} must be (m, d)")
    checks.require_contiguous(atoms=atoms)
    return _gram_matrix(atoms, choose(backend, atoms.device, atoms.dtype))


def matching_pursuit(
    x: Float[Tensor, "n d"],
    atoms: Float[Tensor, "m d"],
    k: int,
    tol: float = 0.0,
    nonnegative: bool = True,
    *,
    gram: Float[Tensor, "m m"] | None = None,
    gram_budget: int = GRAM_BUDGET,
    method: Method = "auto",
    backend: Backend = "auto",
    check: bool = True,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """k steps of matching pursuit on unit atoms: values, atoms in order of selection, residual norm after each step.

    Any prefix is the code for a smaller k; an atom may come again; a row stops at residual norm `tol` or, with
    `nonnegative`, when no correlation is positive, and costs nothing from there. See `reference.matching_pursuit`.

    method "gram" reads one row of `gram = gram_matrix(atoms)` a step (built here unless given) and "product" multiplies
    residuals and atoms again; "auto" takes the first where the matrix fits `gram_budget` bytes. In fp32 and fp64 the values
    and norms are those of x minus the decoded prefix; 16-bit input on Triton follows the Gram recursion, in whose rounding
    a pick's correlation is within 1 % of the best. The values carry exact gradients for x and atoms, the norms none.
    Raises ValueError where shapes, dtypes or devices disagree, k < 1, the Gram method is asked for and over budget or, with
    `check`, x is not finite or a row of atoms is not of unit norm.
    """
    wide = atoms.dtype
    x, atoms = _autocast(x, atoms)
    if gram is not None and atoms.dtype != wide:
        gram = gram.to(checks.gram_dtype(atoms.dtype))
    checks.require_dictionary(x, atoms, gram)
    checks.require_steps(k)
    if check:
        checks.require_finite("x", x)
        checks.require_unit_rows(atoms)
    choice = choose(backend, x.device, x.dtype)
    if choice == "reference":
        return reference.matching_pursuit(x, atoms, k, tol, nonnegative)
    chosen = resolve(method, atoms, gram, gram_budget, choice)
    return MatchingPursuit.apply(x, atoms, gram, k, tol, nonnegative, chosen, choice)  # pyright: ignore[reportReturnType]


def orthogonal_matching_pursuit(
    x: Float[Tensor, "n d"],
    atoms: Float[Tensor, "m d"],
    k: int,
    tol: float = 0.0,
    *,
    backend: Backend = "auto",
    check: bool = True,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """k steps of orthogonal matching pursuit by |correlation|: least-squares values, atoms in order, residual norms.

    A row stops at residual norm `tol` or where x lies in the span of its atoms. A prefix is not the code for a smaller k.
    Plain torch on every device, without gradient. Raises ValueError as `matching_pursuit` does.
    """
    checks.require_dictionary(x, atoms, None)
    checks.require_steps(k)
    if check:
        checks.require_finite("x", x)
        checks.require_unit_rows(atoms)
    if backend == "reference":
        return reference.orthogonal_matching_pursuit(x, atoms, k, tol)
    return orthogonal_pursuit(x, atoms, k, tol)


def _selects_in_registers(k: int, m: int) -> bool:
    from sparse_rep.kernels import product, select

    return select.fits(k, product.group_width(m))


def _centred(x: Tensor, b_dec: Tensor | None) -> Tensor:
    return x if b_dec is None else x - b_dec.to(x.dtype)


def _autocast(first: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
    device = first.device.type
    if not torch.is_autocast_enabled(device):
        return first, *rest  # pyright: ignore[reportReturnType]
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) if t is not None and t.dtype == torch.float32 else t for t in (first, *rest))  # pyright: ignore[reportReturnType]
