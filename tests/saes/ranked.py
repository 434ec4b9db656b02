"""What the processes of `test_ranks` do; a module of its own, since they import it by name."""

from typing import Any

import torch

from sparse_rep.activations import TensorSource
from sparse_rep.config import TrainConfig
from sparse_rep.config_dictionary import TopKConfig, settings_of
from sparse_rep.saes.ranks import current
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.training.trainer import train

KINDS = {
    "topk": {"k": 4, "dead_after_tokens": 600},
    "batchtopk": {"k": 4, "dead_after_tokens": 600},
    "matryoshka": {"k": 4, "prefix_shares": (0.25, 1.0)},
    "mp": {"k": 4, "dead_after_tokens": 600},
    "standard": {"penalty_warmup_tokens": 400, "target_l0": 6.0},
    "gated": {"penalty_warmup_tokens": 400},
    "jumprelu": {"penalty_warmup_tokens": 400},
}


def train_all(n_latents: int = 64) -> dict[str, Any]:
    """Losses of every step and final weights, of a coder of each kind."""
    x = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0)) @ torch.randn(
        16, 16, generator=torch.Generator().manual_seed(1)
    )
    coders = {kind: build_coder(settings_of(kind)(n_latents=n_latents, **own), 16) for kind, own in KINDS.items()}
    losses: dict[str, list[float]] = {kind: [] for kind in coders}
    settings = TrainConfig(n_tokens=128 * 10, batch_tokens=128, buffer_tokens=1024, log_every=1, lr=3e-3)
    train(coders, TensorSource(x), settings, on_metrics=lambda name, step, v: losses[name].append(v["fvu"]))
    weights = {kind: coder.W_dec.detach() for kind, coder in coders.items()}
    return {"losses": losses, "weights": weights, "sent": dict(current().sent)}


def train_shared() -> dict[str, Any]:
    """A TopK dictionary whose latents are shared by the ranks; many die, so that AuxK works."""
    x = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0)) + 1
    coder = build_coder(TopKConfig(n_latents=640, k=4, dead_after_tokens=500), 16)
    losses: list[dict[str, float]] = []
    settings = TrainConfig(n_tokens=128 * 20, batch_tokens=128, buffer_tokens=1024, log_every=1, lr=1e-3)
    shared = current().world > 1
    train(
        {"a": coder}, TensorSource(x), settings, share_latents=shared, on_metrics=lambda name, step, v: losses.append(v)
    )
    return {
        "losses": losses,
        "W_dec": coder.W_dec.detach(),
        "idle": coder.firing.tokens_since_fired,
        "sent": dict(current().sent),
    }


def exchange(rows: int, m: int, d: int) -> tuple[int, bool]:
    """Bytes sent for one gradient in which each rank has `rows` rows, most of them shared; whether the mean is right."""
    ranks = current()
    before = ranks.sent["gradients"]
    gradient = torch.zeros(m, d)
    expected = torch.zeros(m, d)
    for rank in range(ranks.world):
        expected[rank : rank + rows] += (rank + 1.0) / ranks.world
    gradient[ranks.rank : ranks.rank + rows] = ranks.rank + 1.0
    ranks.sum_gradient(gradient).div_(ranks.world)
    return ranks.sent["gradients"] - before, torch.allclose(gradient, expected)


def everything(exchanges: list[tuple[int, int, int]], kinds: bool) -> dict[str, Any]:
    """All of the above in one launch, since a process takes longer to start than to do it."""
    return {
        "exchanged": [exchange(*sizes) for sizes in exchanges],
        "shared": train_shared(),
        "all": train_all() if kinds else None,
    }
