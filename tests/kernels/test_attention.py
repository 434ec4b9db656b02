import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_rep.kernels import attention as ops
from sparse_rep.kernels import attention_torch as plain
from sparse_rep.kernels.attention import Lines, Rule

CUDA = torch.cuda.is_available()
DTYPES = [torch.float32, torch.float16, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
# (h, g, n, d, dv, rule, block); the rules' scale is 1 / sqrt(d).
SMALL = [
    (4, 2, 70, 16, 16, {}, 16),
    (2, 1, 45, 24, 40, {"window": 20}, 16),
    (2, 2, 50, 16, 16, {"softcap": 1.0}, 32),
    (2, 2, 50, 16, 16, {"causal": False}, 16),
    (2, 2, 33, 20, 8, {"window": 5}, 16),
]
LARGE = [
    (8, 2, 1000, 128, 128, {}, 128),
    (9, 3, 1300, 64, 64, {"window": 200}, 128),
    (4, 4, 700, 80, 96, {"softcap": 2.0}, 64),
    (4, 2, 300, 64, 64, {"causal": False}, 64),
]
CASES = SMALL + LARGE if CUDA else SMALL


def made(h, g, n, d, dv, how, dtype, device):
    draw = torch.Generator().manual_seed(n)
    q, k, v = (torch.randn(size, generator=draw).to(device, dtype) for size in ((h, n, d), (g, n, d), (g, n, dv)))
    return q, k, v, Rule(1 / math.sqrt(d), **how)


def wide(*tensors):
    return (t.double() for t in tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_dense_and_masked_passes_match_fp64(case, dtype, device, poisoned):
    h, g, n, d, dv, how, block = case
    q, k, v, rule = made(h, g, n, d, dv, how, dtype, device)
    b = -(-n // block)
    keep = (torch.rand(h, b, b) < 0.3).to(device)
    for kept in (None, keep):
        for backend in ("triton", "torch"):
            out, lse = ops.masked_attention(q, k, v, rule, kept, block=block, backend=backend)
            want, lse64 = ops.masked_attention(*wide(q, k, v), rule, kept, block=block)
            assert out.dtype == dtype
            assert (out.double() - want).norm() / want.norm() < (2e-6 if dtype == torch.float32 else 4e-3)
            assert (lse - lse64).abs().max() < 5e-6
    assert (ops.log_sum_exp(q, k, rule, backend="triton") - ops.log_sum_exp(*wide(q, k), rule)).abs().max() < 5e-6


@pytest.mark.parametrize("case", [c for c in CASES if c[5].get("causal", True)], ids=str)
def test_lines_keep_single_keys_as_the_plain_pass_does(case, device, poisoned):
    h, g, n, d, dv, how, block = case
    q, k, v, rule = made(h, g, n, d, dv, how, torch.float32, device)
    for groups, rows in ((1, n), (-(-n // (2 * block)), 2 * block)):
        lines = Lines((torch.rand(h, groups, n) < 0.1).to(device), (torch.rand(h, n) < 0.05).to(device), rows)
        out, lse = ops.masked_attention(q, k, v, rule, None, block=block, lines=lines, backend="triton")
        want, lse64 = ops.masked_attention(*wide(q, k, v), rule, None, lines=lines, backend="torch")
        torch.testing.assert_close(out.double(), want, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(lse.double(), lse64, atol=5e-6, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_maps_and_lines_of_mass_match_fp64(case, dtype, device, poisoned):
    h, g, n, d, dv, how, block = case
    q, k, _, rule = made(h, g, n, d, dv, how, dtype, device)
    lse = ops.log_sum_exp(*wide(q, k), rule)
    exact = ops.block_mass(*wide(q, k), lse, rule, block=block)
    for backend in ("triton", "torch"):
        mass = ops.block_mass(q, k, lse.float(), rule, block=block, backend=backend)
        assert (mass - exact).abs().max() < 1e-6
        assert (mass.sum(-1) - 1).abs().max() < 2e-6
    if rule.causal:
        want = ops.line_mass(*wide(q, k), lse, rule)
        got = ops.line_mass(q, k, lse.float(), rule, backend="triton")
        for name in ("columns", "distances", "entropy"):
            torch.testing.assert_close(getattr(got, name).double(), getattr(want, name), atol=3e-6, rtol=1e-5, msg=name)


def test_sums_put_off_over_many_tiles_reach_every_block(device, poisoned):
    # 20 blocks of keys: two full groups of the map's deferred sums and a rest.
    q, k, _, rule = made(1, 1, 20 * 16 - 3, 16, 16, {}, torch.float32, device)
    lse = ops.log_sum_exp(q, k, rule)
    mass = ops.block_mass(q, k, lse, rule, block=16, backend="triton")
    assert (mass - ops.block_mass(q, k, lse, rule, block=16, backend="torch")).abs().max() < 1e-6


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 3), st.sampled_from([None, 1, 7]), st.integers(0, 99))
def test_streamed_queries_give_what_the_matrix_gives(n, group, window, seed):
    draw = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2 * group, n, 4, generator=draw).double(), torch.randn(2, n, 4, generator=draw).double()
    s = q @ k.repeat_interleave(group, 0).mT
    back = torch.arange(n)[:, None] - torch.arange(n)
    p = s.masked_fill((back < 0) | (back >= (window or n)), -math.inf).softmax(-1)
    rule = Rule(1.0, window=window)
    plain_chunk, plain.CHUNK = plain.CHUNK, 7 * 2 * group * n  # seven queries at a time
    try:
        found = ops.line_mass(q, k, ops.log_sum_exp(q, k, rule), rule)
    finally:
        plain.CHUNK = plain_chunk
    torch.testing.assert_close(found.columns, p.mean(1))
    torch.testing.assert_close(found.distances[:, 0], p.diagonal(dim1=1, dim2=2).mean(-1))
    torch.testing.assert_close(found.entropy, torch.special.entr(p).sum(-1).mean(-1))


def test_recall_of_kept_blocks_is_a_look_up_in_the_map(device):
    q, k, v, rule = made(4, 2, 160, 16, 16, {}, torch.float32, device)
    lse = ops.log_sum_exp(q, k, rule)
    keep = ((torch.rand(4, 5, 5) < 0.4) | torch.eye(5).bool()).tril().to(device)
    recall = (ops.masked_attention(q, k, v, rule, keep, block=32)[1] - lse).exp().mean(-1)
    looked_up = (ops.block_mass(q, k, lse, rule, block=32) * keep).sum((1, 2)) / 5
    torch.testing.assert_close(recall, looked_up, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("shapes", "rule", "complaint"),
    [
        (((4, 9, 8), (3, 9, 8), (3, 9, 8)), Rule(1.0), "cannot share"),
        (((4, 9, 8), (2, 9, 4), (2, 9, 8)), Rule(1.0), "must be"),
        (((4, 9, 8), (2, 9, 8), (2, 8, 8)), Rule(1.0), "must be"),
        (((4, 9, 8), (2, 9, 8), (2, 9, 8)), Rule(1.0, causal=False, window=3), "needs a causal rule"),
    ],
)
def test_shapes_that_disagree_are_told(shapes, rule, complaint):
    q, k, v = (torch.zeros(s) for s in shapes)
    with pytest.raises(ValueError, match=complaint):
        ops.attention(q, k, v, rule)


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
@pytest.mark.gpu
def test_cudnn_and_our_own_pass_agree(device):
    q, k, v, rule = made(8, 2, 1000, 128, 128, {}, torch.bfloat16, device)
    fast, ours = ops.attention(q, k, v, rule), ops.attention(q, k, v, rule, backend="triton")
    assert (fast[0].float() - ours[0].float()).norm() / ours[0].float().norm() < 5e-3
    assert (fast[1] - ours[1]).abs().max() < 1e-5
