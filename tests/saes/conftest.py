"""Activations with a planted dictionary, and coders trained on them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_rep.activations import TensorSource
from sparse_rep.config import TrainConfig
from sparse_rep.config_dictionary import ARCHITECTURES
from sparse_rep.metrics import ReconstructionStats
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.training.trainer import train

Planted = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(scope="session")
def planted() -> Planted:
    def make(n: int, seed: int = 0, m: int = 48, d: int = 32) -> tuple[Tensor, Tensor]:
        """Sums of 3 of m unit atoms with magnitudes in 0.5..1.5, plus a constant; and the atoms."""
        rng = torch.Generator().manual_seed(seed)
        atoms = torch.randn(m, d, generator=torch.Generator().manual_seed(7))
        atoms = atoms / atoms.norm(dim=-1, keepdim=True)
        picks = torch.rand(n, m, generator=rng).topk(3).indices
        codes = torch.zeros(n, m).scatter(1, picks, torch.rand(n, 3, generator=rng) + 0.5)
        return codes @ atoms + 0.7, atoms

    return make


@pytest.fixture(scope="session")
def random_coder() -> Callable[..., Any]:
    def make(
        kind: str, d_in: int = 12, d_out: int | None = None, dtype: torch.dtype = torch.float64, **settings: Any
    ) -> Any:
        """A coder of any architecture with every weight random (atoms of unit norm) and scales other than 1."""
        coder = build_coder(ARCHITECTURES[kind].checked({"n_latents": 40, **settings}), d_in, "auto", d_out).to(dtype)
        rng = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in coder.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64) * 0.3)
            coder.after_step()
            for name, value in (("scale", 3.0), ("target_scale", 3.0 if d_out is None else 0.5)):
                if hasattr(coder, name):
                    getattr(coder, name).fill_(value)
            if kind == "jumprelu":
                coder.threshold.uniform_(0.1, 0.4, generator=rng)
        return coder

    return make


@pytest.fixture(scope="session")
def learned(planted: Planted) -> Callable[..., dict[str, float]]:
    def learn(kind: str, x: Tensor | None = None, n_tokens: int = 200_000, **settings: Any) -> dict[str, float]:
        """Train on planted data (or on x) and score held-out rows of it: metrics, and the share of atoms recovered."""
        rows, atoms = planted(20_000)
        held_out, _ = planted(2_000, seed=1)
        if x is not None:
            rows, held_out = x[:-2_000], x[-2_000:]
        config = {"n_latents": 64, "dead_after_tokens": 4000, "penalty_warmup_tokens": 20_000, **settings}
        known = ARCHITECTURES[kind].model_fields
        coder = build_coder(ARCHITECTURES[kind].checked({k: v for k, v in config.items() if k in known}), 32)
        trained = {"n_tokens": n_tokens, "batch_tokens": 512, "buffer_tokens": 4096, "lr": 4e-3, "log_every": 50}
        train({"coder": coder}, TensorSource(rows), TrainConfig.checked(trained))
        stats = ReconstructionStats(32, 64)
        with torch.no_grad():
            codes = coder.eval().encode(held_out)
            stats.update(held_out, coder.decode(codes), codes)
        best = (atoms @ coder.atoms.detach().T).max(dim=-1).values
        return {**stats.summary(), "recovered": float((best > 0.95).float().mean())}

    return learn
