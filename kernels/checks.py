"""Bad input, told in one sentence that names the argument and the fix. Value checks wait for the device: `check=False`."""

from __future__ import annotations

import torch
from torch import Tensor

UNIT_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 2e-2}
"""How far a row's norm may be from 1; 1e-3 in wider types."""


def require_encoder(x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor | None) -> None:
    if x.ndim != 2 or W_enc.ndim != 2 or x.shape[1] != W_enc.shape[1]:
        raise ValueError(f"x {tuple(x.shape)} must be (n, d) and W_enc {tuple(W_enc.shape)} (m, d) with the same d")
    if b_enc.shape != W_enc.shape[:1]:
        raise ValueError(f"b_enc {tuple(b_enc.shape)} must hold one bias a latent: ({W_enc.shape[0]},)")
    if b_dec is not None and b_dec.shape != x.shape[1:]:
        raise ValueError(f"b_dec {tuple(b_dec.shape)} must be (d,) = ({x.shape[1]},)")
    require_same("x", x, "W_enc", W_enc)
    require_device("b_enc", b_enc, x)
    if b_dec is not None:
        require_device("b_dec", b_dec, x)
    require_contiguous(x=x, W_enc=W_enc)


def require_k(k: int, m: int) -> None:
    if not 1 <= k <= m:
        raise ValueError(f"k={k} must lie in 1..{m}, the number of latents; lower k or widen the dictionary")


def require_steps(k: int) -> None:
    if k < 1:
        raise ValueError(f"k={k} must be at least 1, the number of steps")


def require_codes(values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor | None) -> None:
    if values.shape != indices.shape or values.ndim != 2:
        raise ValueError(f"values {tuple(values.shape)} and indices {tuple(indices.shape)} must both be (n, k)")
    if W_dec.ndim != 2 or (b_dec is not None and b_dec.shape != W_dec.shape[1:]):
        shape = None if b_dec is None else tuple(b_dec.shape)
        raise ValueError(f"W_dec {tuple(W_dec.shape)} must be (m, d) and b_dec {shape} (d,)")
    if indices.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"indices are {indices.dtype}; convert them with indices.long()")
    require_device("values", values, W_dec)
    require_device("indices", indices, W_dec)
    if b_dec is not None:
        require_device("b_dec", b_dec, W_dec)


def require_in_range(indices: Tensor, m: int) -> None:
    if indices.numel() and not bool(((indices >= -1) & (indices < m)).all()):
        raise ValueError(
            f"indices must lie in -1..{m - 1} (-1: an empty slot); these span {int(indices.min())}..{int(indices.max())}"
        )


def require_dictionary(x: Tensor, atoms: Tensor, gram: Tensor | None) -> None:
    if x.ndim != 2 or atoms.ndim != 2 or x.shape[1] != atoms.shape[1]:
        raise ValueError(f"x {tuple(x.shape)} must be (n, d) and atoms {tuple(atoms.shape)} (m, d) with the same d")
    require_same("x", x, "atoms", atoms)
    require_contiguous(x=x, atoms=atoms)
    if gram is not None:
        if gram.shape != (len(atoms), len(atoms)):
            raise ValueError(f"gram {tuple(gram.shape)} must be (m, m) = ({len(atoms)}, {len(atoms)})")
        require_device("gram", gram, atoms)
        if gram.dtype != gram_dtype(atoms.dtype):
            raise ValueError(
                f"gram is {gram.dtype}; for atoms of {atoms.dtype}, ops.gram_matrix gives {gram_dtype(atoms.dtype)}"
            )
        require_contiguous(gram=gram)


def require_unit_rows(atoms: Tensor) -> None:
    norms = atoms.float().norm(dim=-1)
    off = (norms - 1).abs()
    worst = int(off.argmax())
    if not bool(off[worst] <= UNIT_TOLERANCE.get(atoms.dtype, 1e-3)):
        raise ValueError(
            f"atoms must be unit rows: row {worst} has norm {float(norms[worst]):.4g}; divide by atoms.norm(dim=-1, keepdim=True)"
        )


def require_finite(name: str, tensor: Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds NaN or infinite values; find the token that makes them before encoding")


def gram_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp16 for bf16 atoms: a Gram matrix's entries lie in [-1, 1], where it is eight times as precise in as many bytes."""
    return torch.float16 if dtype == torch.bfloat16 else dtype


def require_same(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    require_device(name, tensor, other)
    if tensor.dtype != other.dtype:
        raise ValueError(f"{name} is {tensor.dtype} and {other_name} {other.dtype}; convert one with .to()")


def require_device(name: str, tensor: Tensor, other: Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(f"{name} is on {tensor.device} and the weights on {other.device}; move one with .to()")


def require_contiguous(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{name} is a strided view; pass {name}.contiguous()")
