"""Rows on their way to the store: nothing lost, nothing doubled, dropped tokens left out, sums as counted by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_rep.routing.capture import Routing, ranked
from sparse_rep.routing.capture_rows import RouteRows
from sparse_rep.routing.families import Router


def routing(
    n: int, E: int, k: int, layers: tuple[int, ...], seed: int, drop: float = 0.0, weighted: bool = True
) -> Routing:
    rng = torch.Generator().manual_seed(seed)
    routers = tuple(Router(layer, f"layers.{layer}.gate", E, k, "softmax", False) for layer in layers)
    logits = torch.randn(len(layers), n, E, generator=rng)
    indices = logits.topk(k, -1).indices
    weights = logits.softmax(-1).gather(-1, indices)
    gone = torch.rand(indices.shape, generator=rng) < drop
    indices, weights = indices.masked_fill(gone, -1), weights.masked_fill(gone, 0)
    return ranked(routers, logits, indices, weights if weighted else None, logits)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 30),
    st.sampled_from([(3, 1), (8, 2), (255, 4), (256, 4), (300, 3)]),
    st.sampled_from([0.0, 0.3]),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_rows_are_every_choice_once_in_order(
    n: int, width: tuple[int, int], drop: float, batches: int, random: object
) -> None:
    """Tokens come in any order and over several batches; the oracle is a loop over them."""
    E, k = width
    tok = np.random.default_rng(random.randrange(2**32)).permutation(n * batches)  # pyright: ignore
    rows, expected = RouteRows(), []
    for number in range(batches):
        found = routing(n, E, k, (1, 4), seed=number, drop=drop)
        mine = torch.from_numpy(tok[number * n : (number + 1) * n])
        rows.add(found, mine)
        for at, layer in enumerate((1, 4)):
            for row, t in enumerate(mine.tolist()):
                for rank in range(k):
                    expert = int(found.indices[at, row, rank])
                    if expert >= 0:
                        assert found.weights is not None
                        weight = found.weights[at, row, rank].bfloat16().item()
                        expected.append((layer, t, rank + 1, expert, weight))
    columns = rows.take()["routes"]
    got = list(zip(*(columns[name].to_pylist() for name in ("layer", "tok", "rank", "expert", "weight")), strict=True))
    assert got == sorted(expected)


def test_a_dropped_token_has_no_rows_is_counted_and_has_no_margin() -> None:
    logits = torch.tensor([[[3.0, 1, 0], [0, 2, 1]]])
    routers = (Router(0, "gate", 3, 2, "softmax", False),)
    indices = torch.tensor([[[0, 1], [1, -1]]])
    found = ranked(routers, logits, indices, torch.tensor([[[0.7, 0.3], [0.6, 0.0]]]), logits)
    rows = RouteRows()
    rows.add(found, torch.tensor([0, 1]))
    tables = rows.take()
    assert tables["routes"]["expert"].to_pylist() == [0, 1, 1]
    assert tables["routes"]["margin"].to_pylist() == [1.0, 1.0, None]
    assert tables["router_sums"]["n_tokens"] == [2]
    assert tables["router_sums"]["n_dropped"] == [1]
    assert tables["expert_sums"]["n_tokens"] == [1, 2, 0]
    np.testing.assert_allclose(tables["expert_sums"]["weight"], [0.7, 0.9, 0.0], rtol=1e-6)


def test_entropy_and_z_are_those_of_the_papers() -> None:
    """Uniform logits: entropy log2 E bits, z log(E)^2; one expert certain: entropy 0."""
    routers = (Router(0, "gate", 8, 2, "softmax", False),)
    indices = torch.tensor([[[0, 1]]])
    for logits, entropy, z in (
        (torch.zeros(1, 1, 8), 3.0, np.log(8) ** 2),
        (torch.tensor([[[500.0] + [0] * 7]]), 0.0, 500.0**2),
    ):
        rows = RouteRows()
        rows.add(ranked(routers, logits, indices, None, logits), torch.tensor([0]))
        sums = rows.take()["router_sums"]
        assert sums["entropy"][0] == pytest.approx(entropy, abs=1e-6)
        assert sums["z"][0] == pytest.approx(z, rel=1e-6)


def test_routers_of_two_widths_are_kept_apart() -> None:
    rows = RouteRows()
    tok = torch.tensor([2, 0, 1])
    rows.add(routing(3, 8, 2, (0, 2), seed=0), tok)
    rows.add(routing(3, 16, 4, (1,), seed=1, weighted=False), tok)
    tables = rows.take()
    layers = np.array(tables["routes"]["layer"].to_pylist())
    assert (np.diff(layers) >= 0).all()
    assert np.bincount(layers).tolist() == [6, 12, 6]
    known = np.array([w is not None for w in tables["routes"]["weight"].to_pylist()])
    assert (known == (layers != 1)).all()
    assert len(tables["expert_sums"]["expert"]) == 8 + 16 + 8
    assert rows.take()["routes"] == {}
