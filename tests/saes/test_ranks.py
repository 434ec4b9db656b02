"""Several processes on one machine: the same losses as one, and no more bytes than the formula says."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_rep.activations import TensorSource
from sparse_rep.config import TrainConfig
from sparse_rep.config_dictionary import settings_of
from sparse_rep.errors import ConfigError
from sparse_rep.saes.ranks import Ranks, current, rows_are_fewer, together
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.trainer import train

# Children import what they run from here.
sys.path.append(str(Path(__file__).parent))
from together import in_processes

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
    settings = TrainConfig(n_tokens=128 * 25, batch_tokens=128, buffer_tokens=1024, log_every=1, lr=3e-3)
    train(coders, TensorSource(x), settings, on_metrics=lambda name, step, v: losses[name].append(v["fvu"]))
    weights = {kind: coder.W_dec.detach() for kind, coder in coders.items()}
    return {"losses": losses, "weights": weights, "sent": dict(current().sent)}


def test_two_processes_give_the_losses_of_one_for_every_kind() -> None:
    alone, both = train_all(), in_processes(2, train_all)
    assert alone["sent"] == {}
    for found in both:
        for kind, losses in alone["losses"].items():
            assert found["losses"][kind] == pytest.approx(losses, rel=1e-5), kind
    for kind in alone["weights"]:
        assert torch.equal(both[0]["weights"][kind], both[1]["weights"][kind]), kind


def train_shared() -> dict[str, Any]:
    """A TopK dictionary whose latents are shared by the ranks; many die, so that AuxK works."""
    x = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0)) + 1
    coder = build_coder(settings_of("topk")(n_latents=96, k=4, dead_after_tokens=600, k_aux=6), 16)
    losses: list[dict[str, float]] = []
    settings = TrainConfig(n_tokens=128 * 25, batch_tokens=128, buffer_tokens=1024, log_every=1, lr=3e-3)
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


@pytest.mark.parametrize("world", [2, 4])
def test_latents_shared_by_ranks_learn_as_in_one_process(world: int) -> None:
    alone, several = train_shared(), in_processes(world, train_shared)
    assert alone["losses"][-1]["dead_share"] > 0.1
    for found in several:
        for mine, expected in zip(found["losses"], alone["losses"], strict=True):
            assert mine["fvu"] == pytest.approx(expected["fvu"], rel=1e-5)
            assert mine["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        torch.testing.assert_close(found["W_dec"], alone["W_dec"], rtol=1e-4, atol=1e-5)
        assert torch.equal(found["idle"], alone["idle"])
        # A step's k values of 128 tokens to each other rank; one all-reduce of 128 x 16 for the reconstruction.
        assert found["sent"]["codes"] >= 25 * (world - 1) * 128 * 4 * 4
        assert found["sent"]["reconstruction"] >= 25 * 2 * (world - 1) * 128 * 16 * 4 // world


def exchange(rows: int, m: int, d: int) -> tuple[dict[str, int], bool]:
    """Bytes sent for one gradient in which each rank has `rows` rows of its own, and whether the mean is right."""
    ranks = current()
    gradient = torch.zeros(m, d)
    mine = torch.arange(rows) * ranks.world + ranks.rank
    gradient[mine] = ranks.rank + 1.0
    expected = torch.zeros(m, d)
    for rank in range(ranks.world):
        expected[torch.arange(rows) * ranks.world + rank] = (rank + 1.0) / ranks.world
    ranks.average_gradient(gradient)
    return dict(ranks.sent), torch.allclose(gradient, expected)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize(("rows", "sparse"), [(3, True), (60, False)])
def test_bytes_sent_follow_the_formula(world: int, rows: int, sparse: bool) -> None:
    m, d = 256, 32
    row_bytes = 4 * d
    assert rows_are_fewer(rows, m, row_bytes, world) == (sparse or world == 2)
    by_rows, whole = (world - 1) * rows * (row_bytes + 8), 2 * (world - 1) * m * row_bytes // world
    for sent, right in in_processes(world, exchange, rows, m, d):
        assert right
        assert sent["gradients"] == min(by_rows, whole)


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    settings = TrainConfig(n_tokens=300, batch_tokens=100)
    coder = build_coder(settings_of("topk")(n_latents=16, k=2), 4)
    with together(Ranks(0, 3)), pytest.raises(ConfigError, match="multiple of 3"):
        train({"a": coder}, TensorSource(torch.randn(200, 4)), settings)
