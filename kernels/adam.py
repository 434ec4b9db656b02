"""One optimiser step for the stacked parameters of several coders: clipped, projected Adam, atoms back to unit norm.

The plain-torch functions here are the specification; `adam_triton` does each in one pass over the parameters, which is what
a step costs: read p, g, m, v, write p, m, v and the 16-bit shadow that the next products read (28 to 30 bytes a parameter).
Learning rates, gradient scales and bias corrections are tensors on the device: a step never waits for the host.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_rep.kernels.dispatch import Backend, choose
from sparse_rep.kernels.step_scalars import BETAS, EPSILON, StepScalars


def bias_corrections(n_steps: int, device: torch.device | str) -> Float[Tensor, "n_steps 2"]:
    """Row t - 1 holds the corrections of step t; in float64, since 1 - 0.999^1 loses three digits in float32."""
    steps = torch.arange(1, n_steps + 1, dtype=torch.float64)
    return torch.stack([1 - beta**steps for beta in BETAS], -1).float().to(device)


def clip_scale(norm: Float[Tensor, " B"], bound: float = 1.0) -> Float[Tensor, " B"]:
    """What `torch.nn.utils.clip_grad_norm_` multiplies gradients of this norm by."""
    return (bound / (norm + 1e-6)).clamp(max=1.0)


def adam_rows(
    p: Float[Tensor, "B rows d"],
    g: Float[Tensor, "B rows d"],
    m: Float[Tensor, "B rows d"],
    v: Float[Tensor, "B rows d"],
    scalars: StepScalars,
    shadow: Float[Tensor, "B rows d"] | None = None,
    unit: bool = False,
    backend: Backend = "auto",
) -> None:
    """Adam in place on p, m and v; `shadow` becomes p in its own dtype.

    With `unit`, rows are atoms: the part of the gradient along each is removed first (the norm constraint would undo it,
    the moments would remember it), and rows end with norm 1.
    """
    if choose(backend, p.device) == "triton":
        from sparse_rep.kernels.adam_triton import adam_rows as fused

        fused(p, g, m, v, scalars, shadow, unit)
        return
    scale, lr = scalars.grad_scale[:, None, None], scalars.lr[:, None, None]
    grad = g.to(p.dtype)
    if unit:
        grad = grad - (grad * p).sum(-1, keepdim=True) * p
    grad = grad * scale
    m.lerp_(grad, 1 - BETAS[0])
    v.mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
    first, second = scalars.corrections
    p.sub_(lr * (m / first) / ((v / second).sqrt() + EPSILON))
    if unit:
        p.div_(p.norm(dim=-1, keepdim=True).clamp(min=1e-12))
    if shadow is not None:
        shadow.copy_(p)
