import pytest
import torch

from sparse_rep.kernels import ops, product, reference

CUDA = torch.cuda.is_available()
SHAPES = [(1, 48, 3001), (63, 768, 5000), (1000, 2304, 3001)] if CUDA else [(1, 48, 30), (9, 48, 280)]
BACKENDS = ["triton", "auto"]


def integers(n, d, m, device, dtype=torch.float32):
    generator = torch.Generator().manual_seed(n)
    x = torch.randint(-1, 2, (n, d), generator=generator).to(device, dtype)
    W = torch.randint(-1, 2, (m, d), generator=generator).to(device, dtype)
    return x, W, torch.randint(-3, 4, (m,), generator=generator).to(device, torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_active_entries_are_those_above_their_thresholds(shape, backend, device, poisoned):
    x, W, b = integers(*shape, device)
    threshold = torch.linspace(
        -2, 2 * shape[1] ** 0.5, shape[2], device=device
    ).round()  # equal to many values: not above
    threshold[-1] = float("inf")
    threshold[0] = float("-inf")
    got = ops.threshold_encode(x, W, b, threshold, backend=backend)
    expected = reference.threshold_encode(x, W, b, threshold)
    assert all(torch.equal(mine, oracle) for mine, oracle in zip(got, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_active_entry_gives_empty_triples(backend, device):
    x, W, b = integers(3, 48, 40, device)
    assert [len(t) for t in ops.threshold_encode(x, W, b, b + 1000, backend=backend)] == [0, 0, 0]


def test_row_chunks_change_nothing(device, monkeypatch):
    x, W, b = integers(7, 48, 100, device)
    whole = ops.threshold_encode(x, W, b, b + 3, backend="triton")
    monkeypatch.setattr(product, "CHUNK_BYTES", 1)
    assert all(
        torch.equal(p, q) for p, q in zip(whole, ops.threshold_encode(x, W, b, b + 3, backend="triton"), strict=True)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_carry_gradient(backend, device):
    x, W, b = (t.requires_grad_() for t in integers(5, 48, 40, device))
    threshold = torch.full((40,), 4.0, device=device)
    leaves = (x, W, b)
    _, _, values = ops.threshold_encode(x, W, b, threshold, backend=backend)
    _, _, expected = reference.threshold_encode(x, W, b, threshold)
    upstream = torch.arange(len(values), device=device).float()
    for mine, oracle in zip(
        torch.autograd.grad(values, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(mine, oracle)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("n", "m", "k"), [(1000, 3001, 64), (7, 50_000, 300)] if CUDA else [(9, 70, 5), (3, 500, 500)])
def test_batch_topk_keeps_the_largest_with_ties_by_position(n, m, k, dtype, device):
    generator = torch.Generator().manual_seed(k)
    pre = torch.randn(n, m, generator=generator).mul(20).round().div(20).to(device, dtype)  # many ties
    assert torch.equal(ops.batch_topk(pre, k), reference.batch_topk(pre, k))
    smooth = torch.randn(n, m, generator=generator).to(device, dtype)
    assert torch.equal(ops.batch_topk(smooth, k), reference.batch_topk(smooth, k))


def test_batch_topk_keeps_no_zero_or_negative_entry(device):
    pre = torch.tensor([[1.0, -0.0, -2.0], [0.0, 3.0, -1.0]], device=device)
    assert ops.batch_topk(pre, 3).tolist() == [[1.0, 0.0, 0.0], [0.0, 3.0, 0.0]]


def test_batch_topk_passes_gradient_to_what_it_keeps(device):
    pre = torch.tensor([[1.0, 5.0], [2.0, -1.0]], device=device, requires_grad=True)
    ops.batch_topk(pre, 1).sum().backward()
    assert pre.grad.tolist() == [[0.0, 1.0], [1.0, 0.0]]
