"""What is measured of a dictionary, by the definitions the field uses, accumulated exactly over batches.

explained variance  1 - sum ||x - x_hat||^2 / sum ||x - mean(x)||^2      (SAELens, "explained_variance")
FVU                 1 - explained variance                               (sparsify)
L0                  mean number of active latents a token
dead share          latents active on none of the tokens seen
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_rep.codes import SparseCodes


class ReconstructionStats:
    """Running sums behind explained variance, L0, dead share and density. Mergeable; float64 throughout."""

    def __init__(self, d: int, n_latents: int) -> None:
        self.n = 0
        self.squared_error = 0.0
        self.sum_x = torch.zeros(d, dtype=torch.float64)
        self.sum_x_squared = 0.0
        self.sum_norm = 0.0
        self.sum_norm_hat = 0.0
        self.fired = torch.zeros(n_latents, dtype=torch.int64)

    @torch.no_grad()
    def update(self, x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"], codes: SparseCodes) -> None:
        x64, hat64 = x.double(), x_hat.double()
        self.n += len(x)
        self.squared_error += float((x64 - hat64).square().sum())
        self.sum_x += x64.sum(0).cpu()
        self.sum_x_squared += float(x64.square().sum())
        self.sum_norm += float(x64.norm(dim=-1).sum())
        self.sum_norm_hat += float(hat64.norm(dim=-1).sum())
        merged = codes.coalesce()
        units = merged.indices[merged.active].long().cpu()
        self.fired += torch.bincount(units, minlength=len(self.fired))

    def merge(self, other: ReconstructionStats) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def fvu(self) -> float:
        variance = self.sum_x_squared - float(self.sum_x.square().sum()) / max(self.n, 1)
        return self.squared_error / variance if variance > 0 else float("nan")

    def summary(self) -> dict[str, float]:
        """Named metrics; NaN where nothing was seen."""
        if self.n == 0:
            return {}
        return {
            "explained_variance": 1 - self.fvu,
            "fvu": self.fvu,
            "mse": self.squared_error / self.n / len(self.sum_x),
            "l0": float(self.fired.sum()) / self.n,
            "l2_ratio": self.sum_norm_hat / self.sum_norm,
            "dead_share": float((self.fired == 0).double().mean()),
            "n_tokens": float(self.n),
        }
