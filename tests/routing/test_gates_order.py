"""COMET+: leaf orders are searched for by Sinkhorn, rounded by the Hungarian algorithm, and found again where planted."""

import itertools

import pytest
import torch
from torch import nn

from sparse_rep.routing.gates.comet import CometGate
from sparse_rep.routing.gates.leaf_order import LeafOrder, nearest_permutations, sinkhorn


def test_sinkhorn_is_doubly_stochastic() -> None:
    scores = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    p = sinkhorn(scores, 200)
    torch.testing.assert_close(p.sum(-1), torch.ones(3, 6).double())
    torch.testing.assert_close(p.sum(-2), torch.ones(3, 6).double())


def test_sinkhorn_of_a_cold_matrix_is_the_best_assignment() -> None:
    scores = torch.rand(4, 4, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(sinkhorn(scores / 1e-3, 2000), nearest_permutations(scores), atol=1e-3, rtol=0)


def test_the_nearest_permutation_has_the_largest_sum_of_all() -> None:
    scores = torch.randn(10, 4, 4, generator=torch.Generator().manual_seed(2))
    found = (scores * nearest_permutations(scores)).sum((1, 2))
    for matrix, value in zip(scores, found, strict=True):
        best = max(sum(matrix[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(4)))
        assert value.item() == pytest.approx(float(best))


@pytest.mark.parametrize("n_experts", [5, 8, 12])
def test_weights_sum_to_1_before_and_after_the_order_settles(n_experts: int) -> None:
    torch.manual_seed(0)
    gate = CometGate(6, n_experts, 2, width=1e-3, order=LeafOrder(2, n_experts))
    nn.init.normal_(gate.splits.weight)
    x = torch.randn(40, 6)
    torch.testing.assert_close(gate(x).weights.sum(1), torch.ones(40), atol=1e-5, rtol=0)
    assert gate.order is not None
    gate.order.settle()
    weights = gate(x).weights
    torch.testing.assert_close(weights.sum(1), torch.ones(40), atol=1e-6, rtol=0)
    assert (weights > 0).sum(1).max() <= 2
    assert not gate.order.theta.requires_grad
    torch.testing.assert_close(gate.conditional(x)[0].dense(), weights)


def test_an_order_that_has_settled_is_settled_when_it_is_loaded() -> None:
    saved, loaded = CometGate(6, 5, 2, order=LeafOrder(2, 5)), CometGate(6, 5, 2, order=LeafOrder(2, 5))
    assert saved.order is not None
    saved.order.settle()
    loaded.load_state_dict(saved.state_dict())
    x = torch.randn(9, 6)
    assert torch.equal(loaded(x).weights, saved(x).weights)


def test_annealing_runs_from_hot_to_cold_along_a_logarithmic_line() -> None:
    order = LeafOrder(1, 4)
    seen = []
    for progress in (0, 0.5, 1):
        order.anneal(progress)
        seen.append((order.temperature, order.iterations))
    assert seen == [pytest.approx((1e-3, 20)), pytest.approx((1e-5, 85)), pytest.approx((1e-7, 150))]


def test_a_planted_permutation_is_found_in_8_of_10_seeds() -> None:
    """Four known experts at the quadrants of a known tree, in an order that is to be found from the outputs alone.

    The ten seeds differ in experts, order and initial theta; each is one tree of a single `LeafOrder`.
    """
    seeds, steps = 10, 120
    torch.manual_seed(0)
    gate = CometGate(2, 4, 1, width=0.1)
    with torch.no_grad():
        gate.splits.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [0, 1]]))
        gate.splits.bias.zero_()
    x = torch.rand(256, 2) * 2 - 1
    leaves = gate.reached(x)[:, 0].detach()
    outputs = torch.einsum("nd,sedo->sneo", x, torch.randn(seeds, 4, 2, 3)) + torch.randn(seeds, 1, 4, 3)
    true = torch.stack([torch.randperm(4) for _ in range(seeds)])
    y = outputs[torch.arange(seeds)[:, None], torch.arange(256), true[:, leaves.argmax(1)]]
    order = LeafOrder(seeds, 4)
    optimiser = torch.optim.Adam([order.theta], lr=1e-3)
    for step in range(steps):
        order.anneal(step / steps)
        predicted = torch.einsum("nl,sle,sneo->sno", leaves, order.matrix(), outputs)
        optimiser.zero_grad()
        ((predicted - y).square().mean((1, 2)).sum() + order.penalty()).backward()
        optimiser.step()
    order.settle()
    found = (order.theta.argmax(2) == true).all(1)
    assert found.sum() >= 8
