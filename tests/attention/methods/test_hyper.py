"""HyperAttention: its order, its blocks, and an estimate that must be right on average."""

import itertools
import math

import pytest
import torch

from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.methods.hyper import gray_rank, halvings, stretches
from sparse_rep.attention.methods.registry import build_method


@pytest.mark.parametrize("planes", [1, 2, 3, 7])
def test_neighbouring_buckets_differ_in_one_bit(planes: int) -> None:
    patterns = torch.tensor(list(itertools.product([False, True], repeat=planes)))
    order = gray_rank(patterns)
    assert sorted(order.tolist()) == list(range(2**planes))
    sequence = patterns[order.argsort()]
    assert (sequence[1:] ^ sequence[:-1]).sum(1).tolist() == [1] * (2**planes - 1)


def test_halves_and_stretches_tile_the_causal_triangle() -> None:
    n, exact = 101, 13
    covered = torch.zeros(n, n)
    for lo, mid, hi in halvings(n, exact):
        covered[mid:hi, lo:mid] += 1
    lo = 0
    for hi in stretches(n, exact):
        assert hi - lo <= exact
        covered[lo:hi, lo:hi] += torch.ones(hi - lo, hi - lo).tril()
        lo = hi
    assert torch.equal(covered, torch.ones(n, n).tril())


def test_queries_meet_the_keys_of_their_sorted_block(layer_of, table) -> None:
    """Worked out anew: hash, sort, cut; every query block holds `block` queries and as many keys."""
    layer = layer_of(n=64, heads=2, kv_heads=1)
    estimate = build_method("hyper", {"exact": 32, "block": 8, "planes": 5, "samples": 0}).estimate(layer, None)
    planes = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    for head in range(2):
        kept = table(estimate, layer)[head]
        assert torch.equal(kept[:32, :32], torch.ones(32, 32).tril().bool())
        of_query, of_key = (
            gray_rank(x @ planes > 0).argsort(stable=True).argsort() // 8 for x in (layer.q[head, 32:], layer.k[0, :32])
        )
        assert torch.equal(kept[32:, :32], of_query[:, None] == of_key)


def test_without_samples_the_output_is_attention_over_the_mask(layer_of, table) -> None:
    layer = layer_of(n=203)
    estimate = build_method("hyper", {"exact": 30, "block": 16, "samples": 0}).estimate(layer, None)
    assert estimate.output is not None
    for head, kept in enumerate(table(estimate, layer)):
        p = layer.logits(head, 0, 203).masked_fill(~kept, float("-inf")).softmax(-1)
        torch.testing.assert_close(estimate.output[head], p @ layer.v[head // 2], atol=1e-5, rtol=1e-4)


def test_sampled_keys_stand_for_all_keys_of_their_part_on_average() -> None:
    """Over many draws the sampled sum of exponentials is the true one, and so the estimate closes in on dense attention."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 128, 16, generator=draw) for _ in range(3))
    layer = LayerAttention(q, k, v)
    dense = layer.probabilities(0, 0, 128) @ v[0]
    outs = []
    for seed in range(60):
        estimate = build_method("hyper", {"exact": 64, "block": 8, "samples": 32, "seed": seed}).estimate(layer, None)
        assert estimate.output is not None
        outs.append(estimate.output[0])
    none = build_method("hyper", {"exact": 64, "block": 8, "samples": 0}).estimate(layer, None).output
    assert none is not None
    one, mean = (outs[0] - dense).norm(), (torch.stack(outs).mean(0) - dense).norm()
    assert mean < 0.35 * one
    assert one < (none[0] - dense).norm()


def test_more_samples_come_nearer(layer_of, scores) -> None:
    layer = layer_of(n=401)
    errors = []
    for samples in (0, 20, 180):
        estimate = build_method("hyper", {"exact": 50, "block": 16, "samples": samples}).estimate(layer, None)
        errors.append(sum(head.error for head in scores(estimate, layer)))
    assert errors == sorted(errors, reverse=True)


def test_a_query_never_reads_what_comes_after_it(layer_of) -> None:
    layer = layer_of(n=150)
    method = build_method("hyper", {"exact": 20, "block": 8, "samples": 5})
    before = method.estimate(layer, None).output
    assert before is not None
    for cut in (75, 37, 112):
        v = layer.v.clone()
        v[:, cut:] = math.nan
        after = method.estimate(LayerAttention(layer.q, layer.k, v), None).output
        assert after is not None
        assert torch.equal(after[:, :cut], before[:, :cut])


def test_similar_queries_and_keys_meet_more_often_than_chance(scores) -> None:
    """Keys in clusters, and queries that ask for one: the hash must bring them together, a random order would not."""
    draw = torch.Generator().manual_seed(0)
    n, d = 512, 32
    centres = torch.randn(32, d, generator=draw)
    q, k = (
        centres[torch.randint(32, (n,), generator=draw)] + 0.2 * torch.randn(n, d, generator=draw) for _ in range(2)
    )
    layer = LayerAttention(2 * q[None], k[None], torch.randn(1, n, d, generator=draw))
    (found,) = scores(build_method("hyper", {"exact": 32, "block": 32}).estimate(layer, None), layer)
    (chance,) = scores(build_method("random_blocks", {"block": 8}).estimate(layer, found.density), layer)
    assert found.recall > chance.recall + 0.2
