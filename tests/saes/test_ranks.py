"""Several processes on one machine: the same losses as one, and no more bytes than the formula says."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_rep.activations import TensorSource
from sparse_rep.config import TrainConfig
from sparse_rep.config_dictionary import TopKConfig
from sparse_rep.errors import ConfigError
from sparse_rep.saes.ranks import Ranks, rows_are_fewer, together
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.training.trainer import train

# Children import what they run from here.
sys.path.append(str(Path(__file__).parent))
from ranked import everything, train_all, train_shared
from together import in_processes

M, D = 256, 32
EXCHANGES = [(3, M, D), (250, M, D)]
"""Rows that each rank has of a gradient of M: few, so that rows travel, and nearly all."""

TWO, FOUR = 2, pytest.param(4, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def launches() -> dict[int, list[Any]]:
    return {}


@pytest.fixture
def several(launches: dict[int, list[Any]], world: int) -> list[Any]:
    """What each of `world` processes did."""
    if world not in launches:
        launches[world] = in_processes(world, everything, EXCHANGES, world == 2)
    return launches[world]


@pytest.mark.parametrize("world", [TWO])
def test_two_processes_give_the_losses_of_one_for_every_kind(several: list[Any]) -> None:
    alone, both = train_all(), [found["all"] for found in several]
    assert alone["sent"] == {}
    for found in both:
        for kind, losses in alone["losses"].items():
            assert found["losses"][kind] == pytest.approx(losses, rel=1e-5), kind
    for kind in alone["weights"]:
        assert torch.equal(both[0]["weights"][kind], both[1]["weights"][kind]), kind


@pytest.mark.parametrize("world", [TWO, FOUR])
def test_latents_shared_by_ranks_learn_as_in_one_process(several: list[Any], world: int) -> None:
    alone = train_shared()
    assert alone["losses"][-1]["dead_share"] > 0.02  # so AuxK is part of what is compared
    for found in (each["shared"] for each in several):
        for mine, expected in zip(found["losses"], alone["losses"], strict=True):
            assert mine["fvu"] == pytest.approx(expected["fvu"], rel=1e-5)
            assert mine["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        torch.testing.assert_close(found["W_dec"], alone["W_dec"], rtol=1e-4, atol=1e-5)
        assert torch.equal(found["idle"], alone["idle"])
        # A step's k values of 128 tokens to each other rank; one all-reduce of 128 x 16 for the reconstruction. AuxK adds.
        assert found["sent"]["codes"] >= 20 * (world - 1) * 128 * 4 * 4
        assert found["sent"]["reconstruction"] >= 20 * 2 * (world - 1) * 128 * 16 * 4 // world


@pytest.mark.parametrize("world", [TWO, FOUR])
def test_bytes_sent_follow_the_formula(several: list[Any], world: int) -> None:
    row_bytes = 4 * D
    assert [rows_are_fewer(rows, M, row_bytes, world) for rows, _, _ in EXCHANGES] == [True, False]
    by_rows, whole = (world - 1) * 3 * (row_bytes + 8), 2 * (world - 1) * M * row_bytes // world
    for found in several:
        assert found["exchanged"] == [(by_rows, True), (whole, True)]


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    settings = TrainConfig(n_tokens=300, batch_tokens=100)
    coder = build_coder(TopKConfig(n_latents=16, k=2), 4)
    with together(Ranks(0, 3)), pytest.raises(ConfigError, match="multiple of 3"):
        train({"a": coder}, TensorSource(torch.randn(200, 4)), settings)
