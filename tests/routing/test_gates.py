"""Gates hold to their papers' formulas, for any number of experts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparse_rep.errors import ConfigError
from sparse_rep.routing.balance import balance_loss, z_loss
from sparse_rep.routing.gates.comet import CometGate
from sparse_rep.routing.gates.dselect_k import DSelectKGate
from sparse_rep.routing.gates.hash import HashGate
from sparse_rep.routing.gates.smooth_step import plogp, smooth_step
from sparse_rep.routing.gates.topk import TopKGate
from sparse_rep.routing.gates.tree import Tree

D = 6
SIZES = [5, 8, 12]


def tokens(n: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def comet(n_experts: int, k: int = 2, width: float = 1.0, seed: int = 0, **settings: float) -> CometGate:
    """With splits of ordinary size, as if it had been trained: some rows on one side, some between."""
    torch.manual_seed(seed)
    gate = CometGate(D, n_experts, k, width=width, **settings)
    nn.init.normal_(gate.splits.weight)
    return gate


@pytest.mark.parametrize("width", [0.1, 1.0, 7.0])
def test_the_smooth_step_is_the_cubic_inside_and_exact_outside(width: float) -> None:
    t = torch.linspace(-2 * width, 2 * width, 401, dtype=torch.double)
    cubic = -2 * t**3 / width**3 + 3 * t / (2 * width) + 0.5
    expected = torch.where(t <= -width / 2, 0.0, torch.where(t >= width / 2, 1.0, cubic))
    torch.testing.assert_close(smooth_step(t, width), expected)
    assert torch.equal(smooth_step(torch.tensor([-width / 2, width / 2]), width), torch.tensor([0.0, 1.0]))


def test_the_smooth_step_has_a_gradient_inside_only() -> None:
    t = torch.tensor([-3.0, -0.5, -0.2, 0.0, 0.4, 0.5, 3.0], requires_grad=True)
    smooth_step(t, 1.0).sum().backward()
    assert t.grad is not None
    assert torch.equal(t.grad != 0, torch.tensor([False, False, True, True, True, False, False]))
    assert t.grad[3] == 1.5


def test_plogp_is_0_at_0_and_so_is_its_gradient() -> None:
    p = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    plogp(p).sum().backward()
    assert plogp(p)[0] == 0
    assert p.grad is not None
    assert torch.isfinite(p.grad).all()


def test_a_tree_of_four_leaves_multiplies_along_its_paths() -> None:
    left = torch.tensor([0.7, 0.2, 0.9])
    expected = torch.tensor([0.7 * 0.2, 0.7 * 0.8, 0.3 * 0.9, 0.3 * 0.1])
    torch.testing.assert_close(Tree(4).leaf_probabilities(left), expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10_000))
def test_leaf_probabilities_of_any_tree_sum_to_1(n_leaves: int, seed: int) -> None:
    tree = Tree(n_leaves)
    left = torch.rand(7, tree.n_splits, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    p = tree.leaf_probabilities(left)
    assert p.shape == (7, n_leaves)
    torch.testing.assert_close(p.sum(1), torch.ones(7, dtype=torch.double))


@pytest.mark.parametrize("n_experts", SIZES)
@pytest.mark.parametrize("width", [1e-3, 1.0, 50.0])
def test_comet_weights_sum_to_1(n_experts: int, width: float) -> None:
    weights = comet(n_experts, width=width)(tokens()).weights
    torch.testing.assert_close(weights.sum(1), torch.ones(64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("n_experts", SIZES)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_saturated_comet_uses_at_most_k_experts(n_experts: int, k: int) -> None:
    gate = comet(n_experts, k, width=1e-4)
    used = (gate(tokens()).weights > 0).sum(1)
    assert used.max() == k
    soft = (comet(n_experts, k, width=100.0)(tokens()).weights > 0).sum(1)
    assert soft.min() == n_experts


@pytest.mark.parametrize("n_experts", SIZES)
def test_comet_splits_learn_in_the_smooth_zone_only(n_experts: int) -> None:
    for width, learns in ((1e-4, False), (100.0, True)):
        gate = comet(n_experts, width=width, entropy=0.1)
        out = gate(tokens())
        (out.weights[:, 0].sum() + out.penalty).backward()
        assert gate.splits.weight.grad is not None
        assert gate.leaves.weight.grad is not None
        assert bool((gate.splits.weight.grad != 0).any()) is learns
        assert torch.isfinite(gate.splits.weight.grad).all()
        assert torch.isfinite(gate.leaves.weight.grad).all()


def test_comet_is_the_softmax_over_reached_leaves_summed_over_trees() -> None:
    gate, x = comet(3, 2).double(), tokens(5).double()
    left = smooth_step(gate.splits(x), 1.0).view(5, 2, 2)
    # Three leaves in heap order: node 1 splits into the first two nodes after it, leaf 0 is node 2.
    p = torch.stack([1 - left[..., 0], left[..., 0] * left[..., 1], left[..., 0] * (1 - left[..., 1])], dim=2)
    score = p * gate.leaves(x).view(5, 2, 3).exp()
    torch.testing.assert_close(gate(x).weights, score.sum(1) / score.sum((1, 2))[:, None])


def test_the_entropy_of_comet_leaves_is_0_once_saturated_and_positive_before() -> None:
    assert comet(8, width=1e-4, entropy=1.0)(tokens()).penalty == 0
    assert comet(8, width=10.0, entropy=1.0)(tokens()).penalty > 0.5


@pytest.mark.parametrize("n_experts", SIZES)
@pytest.mark.parametrize("width", [1e-3, 1.0, 50.0])
def test_skipping_subtrees_changes_nothing_but_the_work(n_experts: int, width: float) -> None:
    gate = comet(n_experts, width=width)
    codes, computed = gate.conditional(tokens())
    torch.testing.assert_close(codes.dense(), gate(tokens()).weights)
    everything = 64 * 2 * (2 * n_experts - 1)
    assert computed <= everything
    if width == 50.0:
        assert computed == everything
    if width == 1e-3:  # a path to one leaf: its splits and itself
        depth = (n_experts - 1).bit_length()
        assert computed <= 64 * 2 * (depth + 1)


def test_comet_starts_undecided() -> None:
    torch.manual_seed(0)
    gate = CometGate(D, 8, 2, width=5.0)
    assert gate.splits.weight.abs().max() <= 0.05
    reached = gate.reached(tokens())
    torch.testing.assert_close(reached, torch.full_like(reached, 1 / 8), atol=0.1, rtol=0)


def test_topk_is_the_softmax_over_the_k_largest_logits() -> None:
    gate, x = TopKGate(D, 8, 3).eval(), tokens()
    logits = gate.logits(x)
    weights = gate(x).weights
    assert torch.equal((weights > 0).sum(1), torch.full((64,), 3))
    kth = logits.topk(3, dim=1).values[:, -1:]
    expected = torch.where(logits >= kth, logits, float("-inf")).softmax(1)
    torch.testing.assert_close(weights, expected)


def test_topk_is_noisy_in_training_only() -> None:
    gate, x = TopKGate(D, 8, 2), tokens()
    assert not torch.equal(gate(x).weights, gate(x).weights)
    gate.eval()
    assert torch.equal(gate(x).weights, gate(x).weights)


def test_hash_sends_an_id_to_the_same_k_experts_whatever_the_token() -> None:
    gate = HashGate(8, 2, seed=3)
    ids = torch.arange(2000)
    weights = gate(tokens(2000), ids).weights
    assert torch.equal(weights, gate(tokens(2000, seed=1), ids).weights)
    assert torch.equal((weights == 0.5).sum(1), torch.full((2000,), 2))
    load = weights.mean(0)  # 2 of 8 experts, each drawn with probability 1/4
    assert (load - 1 / 8).abs().max() < 4 * 0.5 * (0.25 * 0.75 / 2000) ** 0.5


def test_hash_without_ids_says_what_it_needs() -> None:
    with pytest.raises(ConfigError, match="ids"):
        HashGate(8, 2)(tokens())


def test_dselect_k_of_one_selector_is_the_product_of_its_bits() -> None:
    torch.manual_seed(0)
    gate, x = DSelectKGate(D, 4, 1).double(), tokens(5).double()
    nn.init.normal_(gate.bits.weight)
    low, high = smooth_step(gate.bits(x), 1.0).unbind(1)
    expected = torch.stack([(1 - low) * (1 - high), low * (1 - high), (1 - low) * high, low * high], dim=1)
    torch.testing.assert_close(gate(x).weights, expected)


@pytest.mark.parametrize("n_experts", SIZES)
def test_dselect_k_sums_to_1_where_every_code_names_an_expert(n_experts: int) -> None:
    torch.manual_seed(0)
    gate = DSelectKGate(D, n_experts, 2, width=10.0)
    total = gate(tokens()).weights.sum(1)
    if n_experts == 8:
        torch.testing.assert_close(total, torch.ones(64))
    else:
        assert total.max() < 1


def test_dselect_k_pays_for_codes_that_name_no_expert() -> None:
    """Training the penalty alone moves all weight to codes that name experts, and makes it hard."""
    torch.manual_seed(0)
    gate, x = DSelectKGate(D, 5, 2, width=1.0, entropy=1.0), tokens()
    optimiser = torch.optim.Adam(gate.parameters(), lr=0.05)
    before = gate(x).weights.sum(1).mean()
    for _ in range(150):
        optimiser.zero_grad()
        gate(x).penalty.backward()
        optimiser.step()
    assert before < 0.7
    assert gate(x).weights.sum(1).mean() > 0.99
    assert (gate(x).weights > 0).sum(1).double().mean() < 2.5


def test_a_gate_refuses_more_experts_a_token_than_there_are() -> None:
    with pytest.raises(ConfigError, match="1 to 4"):
        TopKGate(D, 4, 5)


def test_routing_is_sparse_codes() -> None:
    gate = TopKGate(D, 8, 2).eval()
    codes = gate.route(tokens())
    assert codes.n_units == 8
    assert codes.values.shape == (64, 2)
    torch.testing.assert_close(codes.dense(), gate(tokens()).weights)


def test_the_balance_loss_is_1_when_uniform_and_e_when_one_expert_has_everything() -> None:
    n, e = 40, 8
    uniform = torch.full((n, e), 1 / e)
    chosen = torch.stack([torch.arange(n) % e, (torch.arange(n) + 1) % e], dim=1)
    assert balance_loss(uniform, chosen).item() == pytest.approx(1)
    one = torch.eye(e)[torch.zeros(n, dtype=torch.long)]
    assert balance_loss(one, torch.zeros(n, 1, dtype=torch.long)).item() == pytest.approx(e)


def test_the_z_loss_is_the_mean_square_of_logsumexp() -> None:
    assert z_loss(torch.zeros(3, 8)).item() == pytest.approx(torch.tensor(8.0).log().item() ** 2)
