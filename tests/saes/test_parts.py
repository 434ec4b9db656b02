"""The parts that coders share, each by itself: hand-worked cases and promises."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_rep.config_dictionary import ARCHITECTURES, JumpReLUConfig, StandardConfig
from sparse_rep.saes.batch_selection import BatchThreshold, kept, selected
from sparse_rep.saes.entries import codes_of
from sparse_rep.saes.firing import FiringCounter
from sparse_rep.saes.jumprelu import JumpReLU
from sparse_rep.saes.penalty import PenaltyWeight
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.scale import rms_scale
from sparse_rep.saes.unit_rows import remove_radial_gradient, renormalise


def test_dead_is_counted_in_tokens_and_empty_slots_fire_nothing() -> None:
    firing = FiringCounter(4, dead_after_tokens=6)
    firing.note(torch.tensor([[0, -1], [2, 0], [-1, -1]]), n_tokens=3)
    assert firing.tokens_since_fired.tolist() == [0, 3, 0, 3]
    firing.note(torch.tensor([[0, -1]]), n_tokens=3)
    assert firing.dead.tolist() == [False, True, False, True]
    assert firing.tokens_seen == 6


def test_firing_is_saved_and_restored_with_what_the_host_counts() -> None:
    firing, other = FiringCounter(4, 6), FiringCounter(4, 6)
    firing.note(torch.tensor([[1]]), n_tokens=5)
    other.load_state_dict(firing.state_dict())
    assert other.tokens_seen == 5
    assert torch.equal(other.tokens_since_fired, firing.tokens_since_fired)


def test_scaled_rows_have_mean_squared_norm_d() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    assert (x / rms_scale(x)).square().sum(-1).mean().item() == pytest.approx(2)


def test_a_step_along_an_atom_is_undone_before_and_after() -> None:
    atoms = torch.nn.Parameter(torch.eye(3))
    atoms.grad = torch.tensor([[5.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    remove_radial_gradient(atoms)
    assert atoms.grad.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    with torch.no_grad():
        atoms.mul_(torch.tensor([[2.0], [0.5], [7.0]]))
    renormalise(atoms)
    assert torch.equal(atoms.detach(), torch.eye(3))


def test_the_largest_of_the_whole_batch_are_selected_whatever_token_they_are_of() -> None:
    values = torch.tensor([[9.0, 8.0, 7.0], [1.0, 0.5, 0.0], [6.0, 0.2, 0.0]])
    assert selected(values, 4 / 3).tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert selected(values, 3).sum() == 7  # what is not positive is never selected


@given(st.integers(1, 12), st.integers(1, 9), st.floats(0.2, 5), st.integers(0, 1000))
def test_exactly_k_a_token_are_selected_on_average_where_so_many_are_positive(
    n: int, w: int, k: float, seed: int
) -> None:
    values = (
        torch.rand(n, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        .sort(descending=True)
        .values
    )
    mask = selected(values, k)
    assert mask.sum() == min(max(int(k * n), 1), n * w)
    if (~mask).any():
        assert values[mask].min() >= values[~mask].max()
    some, indices = kept(values, torch.arange(w).expand(n, w), mask)
    assert (indices >= 0).sum() == mask.sum()
    assert some.sum().item() == pytest.approx(values[mask].sum().item())


def test_the_threshold_is_a_mean_first_and_a_running_mean_later() -> None:
    threshold = BatchThreshold(rate=0.25)
    for least in (4.0, 2.0, 3.0, 3.0):
        threshold.update(torch.tensor([[least, 9.0]]), torch.tensor([[True, True]]))
    assert threshold.value.item() == pytest.approx(3.0)
    threshold.update(torch.tensor([[7.0, 9.0]]), torch.tensor([[True, False]]))
    assert threshold.value.item() == pytest.approx(4.0)  # a quarter of the way from 3 to 7
    threshold.update(torch.tensor([[7.0]]), torch.tensor([[False]]))
    assert threshold.value.item() == pytest.approx(4.0)


def penalty(**settings: Any) -> PenaltyWeight:
    return PenaltyWeight(StandardConfig(**{"penalty": 2.0, "penalty_warmup_tokens": 100, **settings}))


def test_a_penalty_rises_over_its_warm_up() -> None:
    weight = penalty()
    assert [weight.now(seen).item() for seen in (0, 25, 100, 900)] == [0.0, 0.5, 2.0, 2.0]


def test_a_steered_penalty_rises_where_codes_are_too_dense_and_falls_where_too_sparse() -> None:
    weight = penalty(target_l0=10, penalty_rate=0.5)
    weight.steer(torch.tensor(15.0), tokens_seen=50)
    assert weight.value.item() == 2.0  # not before the warm-up is over
    weight.steer(torch.tensor(20.0), tokens_seen=100)
    assert weight.value.item() == pytest.approx(2 * 2**0.5)
    weight.steer(torch.tensor(5.0), tokens_seen=100)
    assert weight.value.item() == pytest.approx(2)
    weight.steer(torch.tensor(500.0), tokens_seen=100)  # the logarithm is cut to 1
    assert weight.value.item() == pytest.approx(2 * 2.718281828**0.5)
    weight.steer(torch.tensor(0.0), tokens_seen=100)
    assert weight.value.item() == pytest.approx(2)


def test_entries_become_rows_and_a_token_without_any_is_empty() -> None:
    codes = codes_of(torch.tensor([0, 2, 2]), torch.tensor([3, 1, 4]), torch.tensor([5.0, 6.0, 7.0]), n=3, n_units=5)
    assert codes.dense().tolist() == [[0, 0, 0, 5, 0], [0] * 5, [0, 6, 0, 0, 7]]


def test_jumprelu_starts_at_the_l0_it_is_steered_to() -> None:
    x = torch.randn(600, 16, generator=torch.Generator().manual_seed(0)) * 40
    coder = JumpReLU(JumpReLUConfig(n_latents=64, target_l0=5), 16)
    coder.initialise(x, torch.Generator().manual_seed(0))
    assert coder.encode(x).l0().mean().item() == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("kind", ["standard", "gated", "jumprelu"])
def test_a_wide_rectified_dictionary_starts_near_its_input_not_at_a_multiple(kind: str) -> None:
    x = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    coder = build_coder(ARCHITECTURES[kind].checked({"n_latents": 2048}), 16)
    coder.initialise(x, torch.Generator().manual_seed(0))
    # Every code is then <w, x> of about half of the atoms: m / (2 d) = 64 times x if the encoder's rows had norm 1.
    ratio = (coder.reconstruct(x, coder.encode(x)) * x).sum() / x.square().sum()
    assert ratio.item() == pytest.approx(1, abs=0.2)
