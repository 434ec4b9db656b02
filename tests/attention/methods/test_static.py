"""Patterns fixed before the text is seen: A-shape, S2, MoA."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.methods.moa import MoA, MoAConfig, bands, choose_spans, influence
from sparse_rep.attention.methods.parts.blocks import block_pairs
from sparse_rep.attention.methods.registry import build_method
from sparse_rep.attention.methods.s2 import S2, S2Config, block_pattern

DKERNEL = "10000000 11000000 11100000 10110000 10011000 10011100 10010110 10010011"
"""Block rows that dkernel makes of 16 tokens in blocks of 2, local 2, stride 3, all heads alike."""


def test_s2_makes_dkernels_block_mask() -> None:
    config = S2Config(block=2, local=2, stride=3, heterogeneous=False)
    made = block_pattern(config, Context(16, 4, 4, 8), config.local, config.stride)
    expected = torch.tensor([[int(x) for x in row] for row in DKERNEL.split()]).bool()
    assert torch.equal(made, expected.expand(4, -1, -1))


def test_s2_heads_keep_other_residues_of_the_stride(layer_of) -> None:
    layer = layer_of(n=64, heads=4, kv_heads=4)
    keep = S2(S2Config(block=4, local=1, stride=4)).estimate(layer, None).mask.blocks(4)
    for head in range(4):
        far = keep[head, 15, :15].nonzero()[:, 0].tolist()
        assert far == [k for k in range(15) if (k + head) % 4 == 0]


def test_s2_dense_heads_are_the_last_ones(layer_of) -> None:
    layer = layer_of(n=64, heads=4, kv_heads=2)
    keep = S2(S2Config(block=4, local=1, stride=4, dense_heads=1)).estimate(layer, None).mask.blocks(4)
    assert torch.equal(keep[2:].sum((1, 2)), torch.tensor([136, 136]))
    assert (keep[:2].sum((1, 2)) < 136).all()


@given(heads=st.integers(1, 12), stride=st.integers(1, 12), local=st.integers(1, 4), offset=st.integers(0, 5))
def test_s2_leaves_no_hole_exactly_where_the_heads_residues_are_all_of_them(
    heads: int, stride: int, local: int, offset: int
) -> None:
    layer = LayerAttention(*(torch.zeros(heads, 96, 4) for _ in range(3)))
    config = S2Config(block=4, local=local, stride=stride, offset=offset)
    notes = S2(config).estimate(layer, None).notes
    step = max(1, stride // heads)
    residues = {(h * step) % stride for h in range(heads)}
    assert set(notes["residues"]) == residues
    assert (notes["blocks_no_head_keeps"] == 0) == (len(residues) == stride)
    if heads >= stride:
        assert notes["share_no_head_keeps"] == 0


def test_s2_with_fewer_heads_than_the_stride_reports_its_holes() -> None:
    """The default with 4 heads and stride 8 steps by 2 and so never keeps a far block of odd number."""
    layer = LayerAttention(*(torch.zeros(4, 64, 4) for _ in range(3)))
    notes = S2(S2Config(block=4, local=1, stride=8)).estimate(layer, None).notes
    assert notes["residues"] == [0, 2, 4, 6]
    odd = sum(1 for q in range(16) for k in range(q) if k % 2)
    assert notes["blocks_no_head_keeps"] == odd
    assert notes["share_no_head_keeps"] == pytest.approx(odd / 136)


def test_s2_with_shared_keys_can_leave_holes_though_its_query_heads_outnumber_the_stride() -> None:
    q, k = torch.zeros(9, 64, 4), torch.zeros(3, 64, 4)
    notes = S2(S2Config(block=4, local=1, stride=8)).estimate(LayerAttention(q, k, k), None).notes
    assert notes["residues"] == [0, 1, 2]
    assert notes["blocks_no_head_keeps"] > 0


def test_a_shape_is_the_first_keys_and_the_nearest(layer_of, table) -> None:
    layer = layer_of(n=30)
    kept = table(build_method("a_shape", {"sink": 2, "window": 5}).estimate(layer, None), layer)[0]
    i, j = torch.arange(30)[:, None], torch.arange(30)
    assert torch.equal(kept, (j <= i) & ((j < 2) | (i - j < 5)))


def test_a_span_is_the_first_block_and_a_band() -> None:
    keep = bands(torch.tensor([1.0, 5.0, 9.0, 100.0]), Context(32, 1, 1, 1), 4)
    assert keep[0, 7].tolist() == [True] + [False] * 6 + [True]
    # The nearest pair of the neighbouring block is 1 apart, of the next 5, then 9.
    assert keep[1, 7].tolist() == [True] + [False] * 5 + [True] * 2
    assert keep[2, 7].tolist() == [True] + [False] * 4 + [True] * 3
    assert keep[3].sum() == 36


def test_spans_grow_with_the_text() -> None:
    method = MoA(MoAConfig(block=4, spans=(((8.0, 0.0), (0.0, 0.5)),)))
    for n in (32, 64):
        zeros = torch.zeros(2, n, 4)
        assert method.estimate(LayerAttention(zeros, zeros, zeros), None).notes["spans"] == [8, n / 2]


def test_influence_is_the_change_of_a_linear_loss_when_a_pair_is_masked(layer_of) -> None:
    """To first order in the output, which is all there is for a loss that is linear in it."""
    layer = layer_of(n=12, heads=2, kv_heads=1, d=8)
    gradient = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(1))
    found = influence(layer, gradient, block=1)
    for head in range(2):
        logits, v = layer.logits(head, 0, 12).double(), layer.v[0].double()
        dense = logits.softmax(-1) @ v
        for i in range(1, 12):
            for j in range(i + 1):
                masked = logits[i].clone()
                masked[j] = float("-inf")
                change = gradient[head, i].double() @ (masked.softmax(-1) @ v - dense[i])
                assert found[head, i, j].item() == pytest.approx(change.item(), abs=2e-5)
        assert found[head, 0, 0].item() == pytest.approx(-(gradient[head, 0] @ layer.v[0, 0]).item(), abs=1e-5)


def test_influence_of_blocks_is_the_sum_of_their_pairs(layer_of) -> None:
    layer = layer_of(n=21)
    gradient = torch.randn(4, 21, 16, generator=torch.Generator().manual_seed(1))
    for magnitude in (False, True):
        fine, coarse = (influence(layer, gradient, block, magnitude) for block in (1, 5))
        wide = torch.zeros(4, 25, 25)
        wide[:, :21, :21] = fine
        torch.testing.assert_close(coarse, wide.view(4, 5, 5, 5, 5).sum((2, 4)), atol=1e-5, rtol=1e-4)


def test_the_head_whose_far_keys_matter_gets_the_long_span() -> None:
    """Head 0 loses by far blocks, head 1 by its neighbours only; both cannot be wide."""
    b = 16
    apart = torch.arange(b)[:, None] - torch.arange(b)
    influences = {64: torch.stack([(apart >= 8).double(), (apart == 1).double()])}
    spans = choose_spans(influences, 4, 0.7, [(1.0, 0.0), (8.0, 0.0), (64.0, 0.0)])
    assert spans == [(64.0, 0.0), (8.0, 0.0)]


def test_spans_stay_within_the_density_at_every_length() -> None:
    draw = torch.Generator().manual_seed(0)
    influences = {n: torch.rand(6, n // 8, n // 8, generator=draw) for n in (64, 128)}
    candidates = [(a, b) for a in (8.0, 16.0) for b in (0.0, 0.2, 0.5, 1.0)]
    spans = choose_spans(influences, 8, 0.6, candidates)
    densities = []
    for n in influences:
        context = Context(n, 6, 6, 1)
        widths = torch.tensor([a + b * n for a, b in spans])
        kept = (bands(widths, context, 8) * block_pairs(context, 8)).sum() / context.visible_pairs / 6
        densities.append(kept.item())
    assert 0.5 < max(densities) <= 0.6
