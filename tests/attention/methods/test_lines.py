"""Columns, diagonals and what votes for them: vertical-slash, FlexPrefill, MInference, MMInference, SnapKV."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.masks import BlockMask, LineMask
from sparse_rep.attention.methods.flexprefill import reaching, root_js
from sparse_rep.attention.methods.parts.last_queries import last_query_mass
from sparse_rep.attention.methods.parts.lines import LineMass, line_pairs, rank_lines
from sparse_rep.attention.methods.parts.modalities import pairs_between
from sparse_rep.attention.methods.registry import build_method


def planted(n: int, columns: list[int], offset: int, d: int = 96, noise: float = 0.0) -> LayerAttention:
    """Attention on two columns and one diagonal: keys carry their position in orthogonal directions, queries ask for it."""
    basis = torch.eye(d)
    u, w = basis[d - 1], basis[d - 2]
    k = torch.zeros(n, d)
    k[torch.arange(n), torch.arange(n) % (d - 2)] = 1
    q = torch.zeros(n, d)
    q[torch.arange(n), (torch.arange(n) - offset) % (d - 2)] = 60.0
    k[columns[0]] += u
    k[columns[1]] += w
    q += 60 * (u + w)
    q += noise * torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    return LayerAttention(q[None], k[None], torch.randn(1, n, d))


def test_vertical_slash_recovers_two_planted_columns_and_a_diagonal_exactly() -> None:
    layer = planted(94, [11, 30], 17)
    method = build_method("vertical_slash", {"last": 32, "verticals": 2, "slashes": 1, "first": 0, "nearest": 0})
    mask = method.estimate(layer, None).mask
    assert isinstance(mask, LineMask)
    assert mask.columns[0].nonzero()[:, 0].tolist() == [11, 30]
    assert mask.offsets[0].nonzero()[:, 0].tolist() == [17]


def test_lines_always_kept_count_among_the_lines_kept(layer_of) -> None:
    layer = layer_of(n=100)
    settings = {"last": 20, "verticals": 12, "slashes": 9, "first": 4, "nearest": 5}
    mask = build_method("vertical_slash", settings).estimate(layer, None).mask
    assert isinstance(mask, LineMask)
    assert mask.columns[:, :4].all()
    assert mask.offsets[:, :5].all()
    assert mask.columns.sum(1).tolist() == [12] * 4
    assert mask.offsets.sum(1).tolist() == [9] * 4
    free = build_method("vertical_slash", settings | {"first": 0, "nearest": 0}).estimate(layer, None).mask
    assert isinstance(free, LineMask)
    mass = last_query_mass(layer, 20)
    for head in range(4):
        assert set(free.columns[head].nonzero()[:, 0].tolist()) == set(mass.columns[head].topk(12).indices.tolist())


@pytest.mark.parametrize("rule", [{}, {"window": 30}, {"sinks": torch.tensor([0.0, 1.0, 2.0, -1.0])}, {"softcap": 2.0}])
def test_the_last_queries_vote_by_their_attention(rule: dict, layer_of) -> None:
    layer = layer_of(n=77, **rule)
    found = last_query_mass(layer, 20)
    for head in range(4):
        p = layer.probabilities(head, 57, 77)
        torch.testing.assert_close(found.columns[head], p.sum(0))
        diagonals = torch.stack(
            [p.diagonal(57 - o).sum() if o <= 57 else p[o - 57 :].diagonal().sum() for o in range(77)]
        )
        torch.testing.assert_close(found.offsets[head], diagonals)


@settings(max_examples=40)
@given(n=st.integers(1, 40), window=st.integers(1, 50), seed=st.integers(0, 99))
def test_the_pairs_on_lines_are_counted_without_the_pairs(n: int, window: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    mask = LineMask(*(torch.rand(3, n, generator=draw) < 0.2 for _ in range(2)))
    back = torch.arange(n)[:, None] - torch.arange(n)
    rows = torch.stack([mask.rows(head, 0, n) for head in range(3)])
    whole = (rows | (back == 0)) & (back >= 0)
    assert torch.equal(line_pairs(mask), whole.sum((1, 2)).double())
    assert torch.equal(line_pairs(mask, window), (whole & (back < window)).sum((1, 2)).double())
    queries, keys = (torch.rand(n, generator=draw) < 0.5 for _ in range(2))
    between = rows & (back >= 0) & queries[:, None] & keys
    assert torch.equal(pairs_between(mask, queries, keys), between.sum((1, 2)).double())


@settings(max_examples=40)
@given(
    n=st.integers(1, 30),
    columns=st.integers(1, 30),
    offsets=st.integers(1, 30),
    lead=st.integers(0, 8),
    seed=st.integers(0, 99),
)
def test_so_many_lines_are_kept_and_those_always_kept_come_first(
    n: int, columns: int, offsets: int, lead: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    mass = LineMass(*(torch.rand(2, n, generator=draw) for _ in range(2)))
    mask = rank_lines(mass, lead, lead).best(columns, offsets)
    for kept, number, score in ((mask.columns, columns, mass.columns), (mask.offsets, offsets, mass.offsets)):
        assert kept.sum(1).tolist() == [min(number, n)] * 2
        assert kept[:, : min(lead, number)].all()
        for row, s in zip(kept[:, lead:], score[:, lead:], strict=True):
            assert not row.any() or row.all() or s[row].min() > s[~row].max()


def test_reaching_a_share_takes_the_fewest_heaviest() -> None:
    mass = torch.tensor([[0.1, 0.5, 0.3, 0.1], [0.25, 0.25, 0.25, 0.25]])
    assert reaching(mass, 0.7).tolist() == [2, 3]
    assert reaching(mass, 1.5).tolist() == [4, 4]


def test_root_js_is_a_distance_between_0_and_the_root_of_log_2() -> None:
    p = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    assert root_js(p, p).tolist() == pytest.approx([0, 0], abs=1e-4)
    apart = root_js(p[:1], torch.tensor([[0.0, 0.4, 0.6]]))
    assert apart.item() == pytest.approx(torch.tensor(2.0).log().sqrt().item(), abs=1e-5)


def test_flexprefill_calls_a_head_query_aware_where_pooling_predicts_it() -> None:
    """Keys equal within a block make pooled products exact; keys that differ within their block do not."""
    draw = torch.Generator().manual_seed(0)
    n, d, block = 128, 32, 16
    k = 2 * torch.randn(n // block, d, generator=draw).repeat_interleave(block, 0)
    q = torch.randn(n // block, d, generator=draw).repeat_interleave(block, 0)
    spiky = torch.zeros(n, d)
    spiky[torch.arange(3, n, 16), 0] = 40.0
    asks = torch.zeros(n, d)
    asks[:, 0] = 3.0
    layer = LayerAttention(
        torch.stack([q, asks]), torch.stack([k, spiky + torch.randn(n, d, generator=draw)]), torch.zeros(2, n, d)
    )
    method = build_method("flexprefill", {"block": block, "tau": 0.25})
    aware = method.estimate(layer, None).notes["query_aware"]
    assert aware[0]
    diagonal = build_method("flexprefill", {"block": block, "tau": 0.0}).estimate(layer, None)
    assert diagonal.notes["query_aware"] == [False, False]


def test_flexprefill_takes_as_many_lines_as_the_mass_needs() -> None:
    """A sink needs one vertical block; attention spread over all keys needs them all."""
    draw = torch.Generator().manual_seed(0)
    n, d, block = 256, 16, 16
    sink = torch.zeros(n, d)
    sink[0, 0] = 100.0
    q = torch.randn(2, n, d, generator=draw)
    q[0] = torch.eye(d)[0]
    k = torch.stack([sink, torch.zeros(n, d)])
    notes = build_method("flexprefill", {"block": block, "tau": 0.0}).estimate(LayerAttention(q, k, k), None).notes
    assert notes["vertical_blocks"][0] == 1
    assert notes["vertical_blocks"][1] > 14


def test_minference_chooses_the_candidate_with_the_most_recall_on_late_queries(layer_of, table) -> None:
    layer = layer_of(n=160, heads=6, kv_heads=3)
    candidates = [
        {"pattern": "a_shape", "sizes": [4, 20]},
        {"pattern": "vertical_slash", "sizes": [20, 20]},
        {"pattern": "block_sparse", "sizes": [1]},
    ]
    estimate = build_method("minference", {"candidates": candidates, "judges": 1000}).estimate(layer, None)
    recall = torch.tensor(list(estimate.notes["recall"].values()))
    labels = list(estimate.notes["recall"])
    assert estimate.notes["chosen"] == [labels[i] for i in recall.argmax(0).tolist()]
    for head, kept in enumerate(table(estimate, layer)):
        p = layer.probabilities(head, 80, 160)
        assert (p * kept[80:]).sum(-1).mean().item() == pytest.approx(recall[:, head].max().item(), abs=1e-5)


def test_minference_prefers_what_a_head_is_made_for() -> None:
    from sparse_rep.attention.planted import planted_layer

    layer = planted_layer(("local", "needle"), n=512)
    candidates = [{"pattern": "a_shape", "sizes": [1, 60]}, {"pattern": "vertical_slash", "sizes": [60, 1]}]
    chosen = build_method("minference", {"candidates": candidates}).estimate(layer, 0.1).notes["chosen"]
    assert chosen == ["a_shape(1,60)", "vertical_slash(60,1)"]


def test_mminference_finds_stride_and_phase_of_a_grid() -> None:
    from sparse_rep.attention.planted import planted_layer

    layer = planted_layer(("grid",), n=512)
    labels = (torch.arange(512) >= 256).long()
    layer = LayerAttention(layer.q, layer.k, layer.v, labels=labels)
    notes = build_method("mminference", {"strides": [8, 32, 128]}).estimate(layer, 0.1).notes
    assert notes["grid"] == ["diagonals 0 mod 32"]
    assert notes["recall"]["grid"][0] > 0.95


def test_mminference_keeps_lines_apart_where_kinds_of_positions_meet(table) -> None:
    """Queries of kind 1 attend to one column, queries of kind 0 to another: one set of lines would need both for all."""
    n, d = 256, 32
    labels = (torch.arange(n) // 32 % 2).long()
    basis = torch.eye(d)
    k = 0.1 * torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    k[3], k[40] = 10 * basis[0], 10 * basis[1]
    q = torch.where(labels[:, None] == 0, 10 * basis[0], 10 * basis[1])
    layer = LayerAttention(q[None], k[None], torch.zeros(1, n, d), labels=labels)
    settings = {"verticals": 1, "slashes": 1, "first": 0, "nearest": 0, "local": 1, "strides": [64], "judges": 256}
    estimate = build_method("mminference", settings).estimate(layer, None)
    assert estimate.notes["recall"]["q_boundary"][0] > 0.99
    (kept,) = table(estimate, layer)
    assert kept[128:, 3][labels[128:] == 0].all()
    # A kind's one diagonal may cross the other's column once.
    assert kept[128:, 3][labels[128:] == 1].sum() <= 1
    assert kept[128:, 40][labels[128:] == 1].all()


def test_snapkv_keeps_the_votes_of_the_prompts_end_for_the_whole_answer(layer_of, table) -> None:
    layer = layer_of(n=120)
    settings = {"answer": 20, "last": 10, "pool": 1, "recent": 3, "first": 2, "capacity": 15}
    estimate = build_method("snapkv", settings).estimate(layer, None)
    assert estimate.first_row == 100
    for kv in range(2):
        votes = sum(layer.probabilities(head, 90, 100)[:, :100].sum(0) for head in (2 * kv, 2 * kv + 1))
        votes = torch.as_tensor(votes).clone()
        votes[:2] = votes[-3:] = float("inf")
        expected = set(votes.topk(15).indices.tolist())
        for head in (2 * kv, 2 * kv + 1):
            rows = table(estimate, layer)[head, 100:]
            assert set(rows[0, :100].nonzero()[:, 0].tolist()) == expected
            assert (rows[:, :100] == rows[0, :100]).all()
            assert torch.equal(rows[:, 100:], torch.ones(20, 20).tril().bool())


def test_snapkv_does_not_look_at_the_answer(layer_of) -> None:
    layer = layer_of(n=120)
    k = layer.k.clone()
    k[:, 100:] += 5
    other = LayerAttention(layer.q, k, layer.v)
    for name in ("snapkv", "ada_snapkv"):
        method = build_method(name, {"answer": 20, "last": 10, "recent": 3, "capacity": 15})
        a, b = (method.estimate(x, None).mask for x in (layer, other))
        assert isinstance(a, LineMask)
        assert isinstance(b, LineMask)
        assert torch.equal(a.columns, b.columns)


def test_ada_snapkv_hands_out_one_capacity_by_votes() -> None:
    draw = torch.Generator().manual_seed(0)
    n, d = 200, 32
    q, k = torch.randn(2, n, d, generator=draw), torch.randn(2, n, d, generator=draw)
    sharp = torch.tensor([6.0, 0.3])[:, None, None]
    settings = {"answer": 20, "last": 20, "pool": 1, "recent": 2, "first": 1, "capacity": 40}
    estimate = build_method("ada_snapkv", settings).estimate(LayerAttention(q * sharp, k, k), None)
    assert sum(estimate.notes["kept"]) == 80
    assert min(estimate.notes["kept"]) >= 8
    # The most that any query gave: a sharp head has the larger votes, and so the larger cache.
    assert estimate.notes["kept"][0] > estimate.notes["kept"][1]


def test_block_masks_of_lines_hold_every_line(layer_of) -> None:
    """What a kernel of 64 x 64 blocks would compute for vertical-slash."""
    layer = layer_of(n=300)
    mask = (
        build_method("vertical_slash", {"verticals": 3, "slashes": 3, "first": 0, "nearest": 0})
        .estimate(layer, None)
        .mask
    )
    blocks = BlockMask(mask.blocks(64), 300, 64, 64)
    for head in range(4):
        causal = torch.ones(300, 300).tril().bool()
        assert not (mask.rows(head, 0, 300) & causal & ~blocks.rows(head, 0, 300)).any()
