"""Several processes on one machine: the same losses as one, and no more bytes than the formula says."""

import sys
from pathlib import Path

import pytest
import torch

from sparse_rep.activations import TensorSource
from sparse_rep.config import TrainConfig
from sparse_rep.config_dictionary import settings_of
from sparse_rep.errors import ConfigError
from sparse_rep.saes.ranks import Ranks, rows_are_fewer, together
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.trainer import train

# Children import what they run from here.
sys.path.append(str(Path(__file__).parent))
from ranked import exchange, train_all, train_shared
from together import in_processes


def test_two_processes_give_the_losses_of_one_for_every_kind() -> None:
    alone, both = train_all(), in_processes(2, train_all)
    assert alone["sent"] == {}
    for found in both:
        for kind, losses in alone["losses"].items():
            assert found["losses"][kind] == pytest.approx(losses, rel=1e-5), kind
    for kind in alone["weights"]:
        assert torch.equal(both[0]["weights"][kind], both[1]["weights"][kind]), kind


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
        assert found["sent"]["codes"] >= 20 * (world - 1) * 128 * 4 * 4
        assert found["sent"]["reconstruction"] >= 20 * 2 * (world - 1) * 128 * 16 * 4 // world


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize(("rows", "sparse"), [(3, True), (250, False)])
def test_bytes_sent_follow_the_formula(world: int, rows: int, sparse: bool) -> None:
    m, d = 256, 32
    row_bytes = 4 * d
    assert rows_are_fewer(rows, m, row_bytes, world) == sparse
    by_rows, whole = (world - 1) * rows * (row_bytes + 8), 2 * (world - 1) * m * row_bytes // world
    for sent, right in in_processes(world, exchange, rows, m, d):
        assert right
        assert sent["gradients"] == min(by_rows, whole)


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    settings = TrainConfig(n_tokens=300, batch_tokens=100)
    coder = build_coder(settings_of("topk")(n_latents=16, k=2), 4)
    with together(Ranks(0, 3)), pytest.raises(ConfigError, match="multiple of 3"):
        train({"a": coder}, TensorSource(torch.randn(200, 4)), settings)
