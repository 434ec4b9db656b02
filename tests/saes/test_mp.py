"""MP-SAE: what unit atoms guarantee, adaptive sparsity, and dead atoms that come back."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_rep.activations import ActivationBatch, TensorSource
from sparse_rep.codes import SparseCodes
from sparse_rep.config import TrainConfig
from sparse_rep.config_dictionary import MPConfig
from sparse_rep.saes.mp import MatchingPursuit
from sparse_rep.saes.training.trainer import train

Planted = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def trained(planted: Planted) -> MatchingPursuit:
    x, _ = planted(8_000)
    coder = MatchingPursuit(MPConfig(n_latents=64, k=3, dead_after_tokens=4000), 32)
    settings = {"n_tokens": 60_000, "batch_tokens": 256, "buffer_tokens": 4096, "lr": 4e-3, "log_every": 50}
    train({"mp": coder}, TensorSource(x), TrainConfig.checked(settings))
    return coder.eval()


def test_two_steps_worked_by_hand() -> None:
    coder = MatchingPursuit(MPConfig(n_latents=3, k=2), 2)
    with torch.no_grad():
        coder.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]))
    codes = coder.encode(torch.tensor([[2.0, 1.0]]))
    # <(1,0), x> = 2 and <(.6,.8), x> = 2: the tie goes to the first. The residual (0, 1) then correlates 0.8 with the second.
    assert codes.indices.tolist() == [[0, 1]]
    torch.testing.assert_close(codes.values, torch.tensor([[2.0, 0.8]]))
    torch.testing.assert_close(coder.decode(codes), torch.tensor([[2.48, 0.64]]))


def test_atoms_are_of_unit_norm_after_training(trained: MatchingPursuit) -> None:
    torch.testing.assert_close(trained.atoms.norm(dim=-1), torch.ones(64), rtol=0, atol=1e-6)


def test_each_residual_is_orthogonal_to_the_last_atom_and_shorter_by_its_code(
    trained: MatchingPursuit, planted: Planted
) -> None:
    """Prop. 3.1 and C.2 of the paper, on residuals of x minus the decoded prefix."""
    x, _ = planted(200, seed=1)
    codes = trained.encode(x, k=8)
    before = x - trained.b_dec * trained.scale
    for taken in range(1, 9):
        prefix = SparseCodes(codes.values[:, :taken], codes.indices[:, :taken], 64)
        residual = x - trained.decode(prefix)
        value, atom = codes.values[:, taken - 1], trained.atoms[codes.indices[:, taken - 1].clamp(min=0)]
        took = codes.indices[:, taken - 1] >= 0
        assert ((residual * atom).sum(-1).abs()[took] < 1e-4 * x.norm(dim=-1)[took]).all()
        shorter = before.square().sum(-1) - value.square()
        torch.testing.assert_close(residual.square().sum(-1), shorter, rtol=1e-4, atol=1e-4)
        before = residual


def test_more_steps_than_in_training_go_on_improving(trained: MatchingPursuit, planted: Planted) -> None:
    x, _ = planted(500, seed=1)
    errors = [(x - trained.decode(trained.encode(x, k=k))).square().sum().item() for k in (1, 2, 3, 6, 12, 24)]
    assert all(later < earlier for earlier, later in pairwise(errors))


def test_a_tolerance_stops_easy_tokens_early_and_is_met_by_all(trained: MatchingPursuit, planted: Planted) -> None:
    x, _ = planted(500, seed=1)
    codes = trained.encode(x, k=64, tolerance=0.1)
    steps = codes.active.sum(-1)
    assert steps.min() < steps.max() < 64
    allowed = 0.1 * trained.typical_norm * trained.scale
    assert ((x - trained.decode(codes)).norm(dim=-1) <= allowed * 1.001).all()


def test_a_prefix_of_the_slots_is_the_code_for_fewer_steps(trained: MatchingPursuit, planted: Planted) -> None:
    x, _ = planted(100, seed=1)
    many, few = trained.encode(x, k=9), trained.encode(x, k=4)
    assert torch.equal(many.indices[:, :4], few.indices)


def test_scaled_activations_stop_at_the_same_step(planted: Planted) -> None:
    x, _ = planted(200)
    steps = []
    for factor in (1.0, 500.0):
        coder = MatchingPursuit(MPConfig(n_latents=64, k=20, tolerance=0.3), 32)
        coder.initialise(x * factor, torch.Generator().manual_seed(0))
        steps.append(coder.encode(x * factor).indices)
        assert torch.equal(coder.folded().encode(x * factor).indices, steps[-1])
    assert torch.equal(*steps)


def test_the_kept_gram_matrix_follows_the_atoms(planted: Planted) -> None:
    x, _ = planted(100)
    coder = MatchingPursuit(MPConfig(n_latents=64, k=5), 32)
    coder.initialise(x, torch.Generator().manual_seed(0))
    with torch.no_grad():
        coder.encode(x)
        coder.W_dec.copy_(coder.W_dec.flip(0).contiguous())
        flipped = coder.encode(x)
    fresh = MatchingPursuit(MPConfig(n_latents=64, k=5), 32)
    fresh.load_state_dict(coder.state_dict())
    assert torch.equal(flipped.indices, fresh.encode(x).indices)


@pytest.mark.parametrize(("coefficient", "revived"), [(0.0, False), (1 / 32, True)])
def test_atoms_that_lie_where_hardly_any_data_are_come_back_only_by_the_revival_term(
    coefficient: float, revived: bool
) -> None:
    rng = torch.Generator().manual_seed(0)
    atoms = torch.randn(40, 24, generator=rng)
    atoms = torch.nn.functional.pad(atoms / atoms.norm(dim=-1, keepdim=True), (0, 8))
    picks = torch.rand(20_000, 40, generator=rng).topk(3).indices
    x = torch.zeros(20_000, 40).scatter(1, picks, torch.rand(20_000, 3, generator=rng) + 0.5) @ atoms
    coder = MatchingPursuit(MPConfig(n_latents=64, k=3, dead_after_tokens=4000, revive_coefficient=coefficient), 32)

    coder.initialise(x[:4000], torch.Generator().manual_seed(0))
    with torch.no_grad():
        coder.W_dec[:40, 24:] = 0  # else residuals reach where the other atoms lie
        coder.W_dec[40:, :24] *= 1e-3
        coder.after_step()
    optimiser = torch.optim.Adam(coder.parameters(), lr=3e-3)
    losses: dict[str, Any] = {}
    for step in range(200):
        losses = coder.loss(ActivationBatch(x[step % 40 * 500 : step % 40 * 500 + 500]))
        optimiser.zero_grad()
        losses["loss"].backward()
        coder.before_step()
        optimiser.step()
        coder.after_step()
    outside = coder.atoms[40:, :24].norm(dim=-1) < 0.1
    assert bool(outside.all()) != revived
    assert (coder.dead[40:].float().mean() < 0.1) == revived
