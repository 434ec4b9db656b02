"""Methods that look at queries and keys, each against its rule worked out on the whole matrix."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.masks import BlockMask
from sparse_rep.attention.methods.dhsa import DHSAConfig, boundaries, chunk_means, cut
from sparse_rep.attention.methods.parts.blocks import block_pairs, blocks_within, finer, mean_pool, visible_blocks
from sparse_rep.attention.methods.proxyattn import proxy_scores
from sparse_rep.attention.methods.quest import page_bounds, upper_bound
from sparse_rep.attention.methods.registry import build_method
from sparse_rep.attention.methods.sparsed import SparseD, SparseDConfig, overlap, reused


@settings(max_examples=30)
@given(
    n=st.integers(1, 60), page=st.integers(1, 20), seed=st.integers(0, 999), scale=st.sampled_from([0.01, 1.0, 100.0])
)
def test_quests_bound_is_never_below_a_keys_product(n: int, page: int, seed: int, scale: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    q, k = (scale * torch.randn(1, n, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    low, high = page_bounds(k, page)
    bound = upper_bound(q[0], low[0], high[0]).repeat_interleave(page, 1)[:, :n]
    assert (bound >= q[0] @ k[0].T - 1e-9 * scale**2).all()


def test_quests_bound_is_reached_by_a_page_of_one_key() -> None:
    q, k = torch.randn(5, 8), torch.randn(1, 7, 8)
    low, high = page_bounds(k, 1)
    torch.testing.assert_close(upper_bound(q, low[0], high[0]), q @ k[0].T)


def test_quest_reads_the_pages_of_highest_bound_and_the_current_one(layer_of, table) -> None:
    layer = layer_of(n=101)
    estimate = build_method("quest", {"page": 4, "tokens": 12, "answer": 20}).estimate(layer, None)
    kept = table(estimate, layer)
    low, high = page_bounds(layer.k, 4)
    for head, row in ((0, 100), (1, 81), (3, 96)):
        bound = upper_bound(layer.q[head, row : row + 1], low[head // 2], high[head // 2])[0, : row // 4]
        pages = {*bound.topk(3).indices.tolist(), row // 4}
        assert {j // 4 for j in kept[head, row].nonzero()[:, 0].tolist()} == pages


def test_block_sparse_keeps_the_best_products_of_means(layer_of) -> None:
    layer = layer_of(n=100)
    mask = build_method("block_sparse", {"block": 10, "top": 5}).estimate(layer, None).mask
    assert isinstance(mask, BlockMask)
    for head in range(4):
        q, k = layer.q[head].view(10, 10, 16).mean(1), layer.k[head // 2].view(10, 10, 16).mean(1)
        s = q @ k.T
        for row in range(10):
            forced = {row, 0, max(row - 1, 0)}
            free = [j for j in s[row, : row + 1].argsort(descending=True).tolist() if j not in forced]
            assert set(mask.keep[head, row].nonzero()[:, 0].tolist()) == forced | set(free[: max(5 - len(forced), 0)])


@pytest.mark.parametrize("step", [1, 2, 5])
def test_anchor_keeps_the_keys_that_come_near_the_anchors_logits(step: int, layer_of, table) -> None:
    """The rule, a query block and a key at a time; the last group and the last block are short."""
    layer, block, theta = layer_of(n=97), 8, 3.0
    kept = table(build_method("anchor", {"block": block, "step": step, "theta": theta}).estimate(layer, None), layer)
    rows = step * block
    for head in range(4):
        logits = layer.logits(head, 0, 97) * math.log2(math.e)
        group = torch.arange(97) // rows
        region = (torch.arange(97) < block) | (group[:, None] == group)
        anchors = logits.masked_fill(~region, float("-inf")).amax(-1)
        expected = region.clone()
        for lo in range(0, 97, block):
            pooled = layer.q[head, lo : lo + block].mean(0) @ layer.k[head // 2].T * layer.scaling * math.log2(math.e)
            near = pooled + theta >= anchors[lo : lo + block].mean()
            expected[group == lo // rows] |= near & (torch.arange(97) < lo // rows * rows)
        assert torch.equal(kept[head], expected.tril())


def test_anchors_theta_is_a_trade_of_density_for_recall(layer_of, scores) -> None:
    layer = layer_of()
    found = []
    for theta in (-5.0, 0.0, 3.0, 100.0):
        estimate = build_method("anchor", {"block": 8, "step": 2, "theta": theta}).estimate(layer, None)
        found.append(sum(head.recall for head in scores(estimate, layer)) / 4)
    assert found == sorted(found)
    assert found[-1] == pytest.approx(1, abs=1e-6)


def test_proxy_scores_are_the_largest_attention_of_the_averaged_heads(layer_of) -> None:
    layer = layer_of(n=90, heads=4, kv_heads=2)
    found = proxy_scores(layer, 2, 2, 8)
    for group in range(2):
        q, k = layer.q[2 * group : 2 * group + 2].mean(0)[::2], layer.k[group][::2]
        p = (q @ k.T * layer.scaling).masked_fill(~torch.ones(45, 45).tril().bool(), float("-inf")).softmax(-1)
        wide = torch.zeros(48, 48)
        wide[:45, :45] = p
        torch.testing.assert_close(found[group], wide.view(12, 4, 12, 4).amax((1, 3)))


def test_proxyattn_heads_of_a_group_rank_alike_and_take_what_each_needs() -> None:
    draw = torch.Generator().manual_seed(0)
    k = torch.randn(1, 160, 16, generator=draw)
    q = torch.randn(1, 160, 16, generator=draw) * torch.tensor([5.0, 0.2])[:, None, None]
    layer = LayerAttention(q, k, k)
    estimate = build_method("proxyattn", {"block": 8, "stride": 2, "gamma": 0.7, "min_blocks": 1}).estimate(layer, None)
    assert isinstance(estimate.mask, BlockMask)
    sharp, even = estimate.mask.keep
    assert estimate.notes["blocks"][0] < estimate.notes["blocks"][1]
    assert not (sharp & ~even).any()


def test_proxyattn_refuses_groups_that_do_not_divide_the_heads(layer_of) -> None:
    answer = build_method("proxyattn", {"groups": 3}).applies(layer_of().context)
    assert not answer.holds
    assert "must divide the layer's 2 key-value heads" in answer.reason


def test_dhsa_cuts_where_attention_changes() -> None:
    mass = torch.full((1, 60), 0.1)
    mass[0, 20:35] = 5.0
    starts = boundaries(mass, DHSAConfig(chunk=10))
    assert starts[0].nonzero()[:, 0].tolist() == [0, 20, 35]


def test_dhsa_does_not_cut_even_attention() -> None:
    assert boundaries(torch.ones(2, 60), DHSAConfig(chunk=10)).sum(1).tolist() == [1, 1]


@settings(max_examples=30)
@given(n=st.integers(1, 50), seed=st.integers(0, 99))
def test_chunks_partition_the_keys_and_know_their_means(n: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    starts = torch.rand(3, n, generator=draw) < 0.2
    starts[:, 0] = True
    chunks, k = cut(starts), torch.randn(3, n, 4, generator=draw)
    means = chunk_means(k, chunks)
    assert chunks.lengths.sum(1).tolist() == [n] * 3
    for g in range(3):
        at = starts[g].nonzero()[:, 0].tolist()
        for c, (lo, hi) in enumerate(zip(at, [*at[1:], n], strict=True)):
            assert chunks.lengths[g, c] == hi - lo
            torch.testing.assert_close(means[g, c], k[g, lo:hi].mean(0))


def test_dhsa_takes_whole_chunks_by_score_until_the_tokens_are_spent() -> None:
    """Three chunks of 20 keys; the query likes the second, then the first. 30 tokens: all of one and half of the other."""
    n, d = 80, 8
    basis = torch.eye(d)
    k = torch.cat([basis[0].expand(20, -1), basis[1].expand(20, -1), basis[2].expand(20, -1), torch.zeros(20, d)])
    q = (5 * basis[0] + 9 * basis[1] + basis[2]).expand(n, -1)
    layer = LayerAttention(q[None], k[None], k[None])
    method = build_method("dhsa", {"block": 10, "chunk": 10, "local": 1, "top": 30, "last": 10, "span": 4})
    estimate = method.estimate(layer, None)
    assert estimate.notes["chunks"] == [4]
    row = estimate.mask.rows(0, 79, 80)[0]
    assert row[20:40].all()
    assert row[:10].all()
    assert not row[10:20].any()
    assert not row[40:79].any()


def diffusion(step: int, seed: int, n: int = 90) -> LayerAttention:
    draw = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, n, 16, generator=draw) for _ in range(3))
    return LayerAttention(3 * q, k, v, causal=False, step=step, labels=(torch.arange(n) >= 60).long())


def test_sparsed_keeps_the_heaviest_blocks_of_prompt_and_of_generated_keys_apart() -> None:
    layer = diffusion(50, 0)
    mask = SparseD(SparseDConfig(block=10, select=0.34, steps=100)).estimate(layer, None).mask
    assert isinstance(mask, BlockMask)
    for head in range(2):
        mass = layer.probabilities(head, 0, 90).view(9, 10, 9, 10).sum((1, 3))
        for row in range(9):
            # int(6 * 0.34) + 1 of the prompt's blocks and int(3 * 0.34) + 1 of the others.
            expected = {*mass[row, :6].topk(3).indices.tolist(), *(mass[row, 6:].topk(2).indices + 6).tolist()}
            assert set(mask.keep[head, row].nonzero()[:, 0].tolist()) == expected


def test_sparsed_attends_to_everything_at_first_and_then_reuses_one_mask() -> None:
    method = SparseD(SparseDConfig(block=10, steps=10, skip=0.2))
    used = reused(method, [diffusion(step, step) for step in range(6)])
    assert all(isinstance(e.mask, BlockMask) and e.mask.keep.all() for e in used[:2])
    assert used[2].notes == {"early": False}
    assert all(e is used[2] for e in used[3:])


def test_masks_of_two_steps_overlap_as_their_attention_does() -> None:
    method = SparseD(SparseDConfig(block=10, steps=10))
    a, b = diffusion(5, 0), diffusion(6, 1)
    same, other = (method.estimate(x, None).mask for x in (a, b))
    assert isinstance(same, BlockMask)
    assert isinstance(other, BlockMask)
    assert overlap(same, same).tolist() == [1, 1]
    near = LayerAttention(a.q + 0.05, a.k, a.v, causal=False, step=6, labels=a.labels)
    after = method.estimate(near, None).mask
    assert isinstance(after, BlockMask)
    assert (overlap(same, after) > overlap(same, other)).all()


@settings(max_examples=40)
@given(n=st.integers(1, 50), block=st.integers(1, 12), window=st.integers(1, 60) | st.none(), causal=st.booleans())
def test_pairs_of_blocks_are_counted_exactly(n: int, block: int, window: int | None, causal: bool) -> None:
    layer = LayerAttention(*(torch.zeros(1, n, 2) for _ in range(3)), causal=causal, window=window if causal else None)
    b = -(-n // block)
    wide = torch.zeros(b * block, b * block)
    wide[:n, :n] = layer.visible(0, n)
    expected = wide.view(b, block, b, block).sum((1, 3))
    context = layer.context
    assert torch.equal(block_pairs(context, block), expected.double())
    assert torch.equal(visible_blocks(context, block, block), expected > 0)
    assert blocks_within(context, block, 1.0) >= (expected > 0).sum(1).max()


@pytest.mark.parametrize(
    ("n", "budget", "expected"), [(131072, 0.05, 128), (8192, 0.05, 64), (1024, 0.2, 32), (1024, 0.05, 16)]
)
def test_blocks_are_as_large_as_a_budget_can_hold_three_of_in_a_row(n: int, budget: float, expected: int) -> None:
    context = LayerAttention(*(torch.zeros(1, n, 1) for _ in range(3))).context
    fitting = finer(build_method("random_blocks"), context, budget)
    assert fitting.config.block == expected  # pyright: ignore[reportAttributeAccessIssue]
    own_and_two_more = block_pairs(context, expected).tril(0).triu(-2).sum() if n <= 8192 else 0
    assert expected == 16 or own_and_two_more <= budget * context.visible_pairs
    assert finer(build_method("random_blocks"), context, None).config.block == 128  # pyright: ignore
    assert finer(build_method("random_blocks", {"block": 12}), context, 0.01).config.block == 12  # pyright: ignore


@given(n=st.integers(1, 40), block=st.integers(1, 12))
def test_a_pooled_block_is_the_mean_of_what_it_has(n: int, block: int) -> None:
    x = torch.randn(2, n, 3, generator=torch.Generator().manual_seed(n))
    expected = torch.stack([x[:, lo : lo + block].mean(1) for lo in range(0, n, block)], 1)
    torch.testing.assert_close(mean_pool(x, block), expected)
