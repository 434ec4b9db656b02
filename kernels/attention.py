"""Attention of one layer without its matrix: the public operations, checked, and a choice of implementation made a call.

q (h, n, d), k (g, n, d) and v (g, n, dv) are one text's, after position encoding; h / g query heads share a key-value head.
Nothing here holds more than q, k, v, what it returns and, in plain torch, 8 MiB of logits. `backend` is as in ops.py.
Learned sinks take part in no sum here: `logaddexp(lse, sink)` is the log-sum-exp with one, and mass given that one falls
short of 1 by what the sink takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_rep.kernels import attention_torch as plain
from sparse_rep.kernels.attention_torch import Lines, Rule
from sparse_rep.kernels.dispatch import Backend, choose

__all__ = [
    "BLOCK",
    "LineMass",
    "Lines",
    "Rule",
    "attention",
    "block_mass",
    "line_mass",
    "log_sum_exp",
    "masked_attention",
]

BLOCK = 128
"""Tokens a block of the map, unless told otherwise."""
MAX_ROW = 512
"""Bytes of the widest key or value of the Triton kernels: wider tiles do not fit a multiprocessor."""


@dataclass(frozen=True)
class LineMass:
    """Where a head's attention goes, as means over queries; fp32 (fp64 for fp64 input)."""

    columns: Float[Tensor, "h n"]
    """Attention that each key receives."""
    distances: Float[Tensor, "h n"]
    """Attention to the key that lies 0, 1, 2, ... before the query."""
    entropy: Float[Tensor, " h"]
    """Nats."""


def log_sum_exp(
    q: Float[Tensor, "h n d"], k: Float[Tensor, "g n d"], rule: Rule, *, backend: Backend = "auto"
) -> Float[Tensor, "h n"]:
    """Log of the sum of exponentiated logits of each query, fp32 (fp64 for fp64 input).

    Raises ValueError where shapes disagree or the rule has a window but is not causal.
    """
    _require(q, k, k, rule)
    if _choose(backend, q, k) == "triton":
        from sparse_rep.kernels import masked_attention_triton as fast

        return fast.attention(q, k, None, rule)[1]
    return plain.log_sum_exp(q, k, rule)


def attention(
    q: Float[Tensor, "h n d"],
    k: Float[Tensor, "g n d"],
    v: Float[Tensor, "g n dv"],
    rule: Rule,
    *,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "h n dv"], Float[Tensor, "h n"]]:
    """The dense pass: output in q's dtype and log-sum-exp. Raises ValueError as `log_sum_exp` does.

    On CUDA this is cuDNN's flash attention where that knows the rule: on an H100 it is faster than ours.
    """
    _require(q, k, v, rule)
    if backend == "auto" and _cudnn_takes(q, v, rule):
        found = torch.ops.aten._scaled_dot_product_cudnn_attention(
            q[None], k[None], v[None], None, True, is_causal=rule.causal, scale=rule.scale
        )
        return found[0][0], found[1].view(q.shape[:2])
    return masked_attention(q, k, v, rule, None, backend=backend)


def masked_attention(
    q: Float[Tensor, "h n d"],
    k: Float[Tensor, "g n d"],
    v: Float[Tensor, "g n dv"],
    rule: Rule,
    keep: Bool[Tensor, "h b b"] | None,
    *,
    block: int = BLOCK,
    lines: Lines | None = None,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "h n dv"], Float[Tensor, "h n"]]:
    """Attention over kept keys, renormalised: output in q's dtype and log-sum-exp over what was kept.

    Without `lines`, whole blocks of keys are kept, the one on the diagonal always, so that no row is empty. With `lines`,
    single keys are, a query's own always, and `keep` names at least the blocks that hold them (None: any may).
    exp(lse kept - lse dense) is a query's recall. Raises ValueError as `log_sum_exp` does, or for a `keep` of another shape.
    """
    _require(q, k, v, rule)
    b = -(-q.shape[1] // block)
    if keep is not None and keep.shape != (len(q), b, b):
        raise ValueError(f"keep {tuple(keep.shape)} must be ({len(q)}, {b}, {b}) for blocks of {block}")
    whole = lines is None or lines.columns.shape[1] == 1 or lines.rows % block == 0
    if _choose(backend, q, v) == "triton" and block in (16, 32, 64, 128) and whole:
        from sparse_rep.kernels import masked_attention_triton as fast

        if lines is not None and keep is None:
            keep = torch.ones((len(q), b, b), dtype=torch.bool, device=q.device)
        out, lse = fast.attention(q, k, v, rule, keep, block, lines)
        assert out is not None
        return out, lse
    if lines is not None:
        return plain.masked_attention(q, k, v, rule, None, block, lines)
    if keep is not None:
        keep = keep | torch.eye(b, dtype=torch.bool, device=keep.device)
    return plain.masked_attention(q, k, v, rule, keep, block)


def block_mass(
    q: Float[Tensor, "h n d"],
    k: Float[Tensor, "g n d"],
    lse: Float[Tensor, "h n"],
    rule: Rule,
    *,
    block: int = BLOCK,
    backend: Backend = "auto",
) -> Float[Tensor, "h b b"]:
    """The block-mass map: mean over a block's queries of their attention exp(logit - lse) to each block of keys.

    The recall of any choice of blocks is a look-up in it. Raises ValueError as `log_sum_exp` does.
    """
    _require(q, k, k, rule)
    if _choose(backend, q, k) == "triton" and block in (16, 32, 64, 128):
        from sparse_rep.kernels import mass_triton

        return mass_triton.block_mass(q, k, lse, rule, block)
    return plain.block_mass(q, k, lse, rule, block)


def line_mass(
    q: Float[Tensor, "h n d"],
    k: Float[Tensor, "g n d"],
    lse: Float[Tensor, "h n"],
    rule: Rule,
    *,
    backend: Backend = "auto",
) -> LineMass:
    """Attention by key and by distance, and its entropy. Raises ValueError as `log_sum_exp` does, or for a rule not causal."""
    _require(q, k, k, rule)
    if not rule.causal:
        raise ValueError("line_mass counts distances back from a query: the rule must be causal")
    if _choose(backend, q, k) == "triton":
        from sparse_rep.kernels import mass_triton

        return LineMass(*mass_triton.line_mass(q, k, lse, rule))
    return LineMass(*plain.line_mass(q, k, lse, rule))


def _cudnn_takes(q: Tensor, v: Tensor, rule: Rule) -> bool:
    plain_rule = rule.window is None and rule.softcap is None
    sixteen = q.dtype in (torch.float16, torch.bfloat16)
    widths = q.shape[-1] == v.shape[-1] and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    return q.is_cuda and torch.cuda.get_device_capability(q.device) >= (9, 0) and plain_rule and sixteen and widths


def _choose(backend: Backend, q: Tensor, other: Tensor) -> str:
    choice = choose(backend, q.device, q.dtype)
    width = max(q.shape[-1], other.shape[-1])
    if choice == "triton" and width * q.element_size() > MAX_ROW:
        if backend == "triton":
            most = MAX_ROW // q.element_size()
            raise ValueError(
                f'backend="triton" takes {q.dtype} heads up to {most} wide, not {width}; use backend="auto"'
            )
        return "torch"
    return choice


def _require(q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> None:
    if q.ndim != 3 or k.ndim != 3 or v.ndim != 3 or k.shape[1:] != q.shape[1:] or v.shape[:2] != k.shape[:2]:
        raise ValueError(
            f"q {tuple(q.shape)} must be (h, n, d), k {tuple(k.shape)} (g, n, d) and v {tuple(v.shape)} (g, n, dv)"
        )
    if len(q) % len(k):
        raise ValueError(f"{len(q)} query heads cannot share {len(k)} key-value heads equally")
    if rule.window is not None and (not rule.causal or rule.window < 1):
        raise ValueError(f"a window of {rule.window} needs a causal rule and at least one key")
