import pytest
import torch

from sparse_rep.kernels import ops, product, reference, topk

CUDA = torch.cuda.is_available()
DTYPES = [torch.float32, torch.float16, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
# (n, d, m, k); the interpreter takes 20 ms a row.
SHAPES = (
    [(n, d, 3001, k) for n in (1, 63, 1000) for d in (48, 576, 768, 2304) for k in (1, 7, 64, 256)]
    if CUDA
    else [(1, 48, 300, 7), (3, 64, 275, 1), (5, 48, 270, 64), (2, 48, 1100, 3)]
)
BACKENDS = ["triton", "auto"]
RELATIVE = {torch.float32: 1e-5, torch.float16: 1e-5, torch.bfloat16: 1e-2}


def encoder(n, d, m, dtype, device, seed=0):
    generator = torch.Generator().manual_seed(seed + n + d)
    x = torch.randn(n, d, generator=generator)
    W = torch.randn(m, d, generator=generator) / d**0.5
    b = 0.1 * torch.randn(m, generator=generator)
    return x.to(device, dtype), W.to(device, dtype), b.to(device)


def integers(n, d, m, dtype, device):
    """Every sum exact in every type, so nearly everything ties and the answer is one and only one."""
    generator = torch.Generator().manual_seed(n)
    x = torch.randint(-1, 2, (n, d), generator=generator)
    W = torch.randint(-1, 2, (m, d), generator=generator)
    b = torch.randint(-3, 4, (m,), generator=generator)
    return x.to(device, dtype), W.to(device, dtype), b.to(device, torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_chosen_latents_are_the_oracles_up_to_rounding(shape, dtype, backend, device, poisoned):
    n, d, m, k = shape
    x, W, b = encoder(n, d, m, dtype, device)
    values, indices = ops.topk_encode(x, W, b, k, relu=False, backend=backend)
    true = x.double() @ W.double().T + b.double()
    best = true.topk(k).values
    chosen = true.gather(1, indices)
    # Relative to the k-th; its size is floored where it happens to lie near zero.
    slack = RELATIVE[dtype] * best[:, -1:].abs().clamp(min=0.1)
    assert (chosen >= best[:, -1:] - slack).all()
    assert indices.sort(-1).values.diff(dim=-1).ne(0).all()
    assert (values.diff(dim=-1) <= 0).all()
    torch.testing.assert_close(values.double(), chosen, rtol=RELATIVE[dtype], atol=max(1e-5, 0.1 * RELATIVE[dtype]))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ties_go_to_the_lowest_index(shape, dtype, relu, device, poisoned):
    n, d, m, k = shape
    x, W, b = integers(n, d, m, dtype, device)
    expected = reference.topk_encode(x.double(), W.double(), b.double(), k, relu=relu)
    # Sums beyond 256 are not exact in bf16: compare the ties of the rounded values there.
    if d > 256 and dtype == torch.bfloat16:
        pre = (x.double() @ W.double().T + b.double()).to(dtype).double()
        expected = topk.exact_topk(pre, k)
        expected = topk.drop_nonpositive(*expected) if relu else expected
    for backend in BACKENDS:
        values, indices = ops.topk_encode(x, W, b, k, relu=relu, backend=backend)
        assert torch.equal(indices, expected[1]), backend
        assert torch.equal(values.double(), expected[0]), backend


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_those_of_the_chosen_entries(shape, dtype, device, poisoned):
    n, d, m, k = shape
    x, W, b = encoder(n, d, m, dtype, device)
    b_dec = torch.zeros(d, device=device, dtype=dtype)
    leaves = [t.requires_grad_() for t in (x, W, b, b_dec)]
    values, indices = ops.topk_encode(x, W, b, k, b_dec, backend="triton")
    upstream = torch.randn(values.shape, generator=torch.Generator().manual_seed(1)).to(device)
    got = torch.autograd.grad(values, leaves, upstream)

    wide = [t.detach().double().requires_grad_() for t in leaves]
    pre = (wide[0] - wide[3]) @ wide[1].T + wide[2]
    picked = torch.where(indices >= 0, pre.gather(1, indices.clamp(min=0)), 0)
    expected = torch.autograd.grad(picked, wide, upstream.double())
    for name, mine, oracle in zip(("x", "W_enc", "b_enc", "b_dec"), got, expected, strict=True):
        error = (mine.double() - oracle).norm() / oracle.norm()
        assert error < (2e-6 if dtype == torch.float32 else 5e-3), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_edge_rows(backend, dtype, device, poisoned):
    x, W, b = encoder(4, 48, 70, dtype, device)
    x[0] = 0
    x[1] = float("nan")
    b = torch.zeros_like(b)
    b[5:] = float("-inf")
    values, indices = ops.topk_encode(x, W, b, 16, relu=False, backend=backend, check=False)
    assert indices[0].tolist() == list(range(16))  # zeros tie, then the -inf biases tie
    assert values[0].tolist() == [0.0] * 5 + [float("-inf")] * 11
    assert values[1].isnan().all()
    assert values[2:, :5].isfinite().all()
    assert values[2:, 5:].isneginf().all()
    values, indices = ops.topk_encode(x, W, b, 16, backend=backend, check=False)
    assert (indices[0] == -1).all()
    assert values[1].isnan().all()
    n_positive = ((x[2:].float() @ W.float().T + b) > 0).sum(-1)
    assert torch.equal((indices[2:] >= 0).sum(-1), n_positive)


@pytest.mark.parametrize("dtype", DTYPES if CUDA else [torch.float16], ids=str)
def test_row_chunks_change_nothing(dtype, device, monkeypatch):
    x, W, b = integers(1300 if CUDA else 7, 48, 300, dtype, device)
    whole = ops.topk_encode(x, W, b, 3, backend="triton")
    monkeypatch.setattr(product, "CHUNK_BYTES", 200_000 if CUDA else 4000)  # 128 rows or more; 2
    parts = ops.topk_encode(x, W, b, 3, backend="triton")
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


@pytest.mark.parametrize("dtype", DTYPES if CUDA else [torch.float32], ids=str)
def test_rows_that_tma_cannot_read_take_the_other_product(dtype, device):
    x, W, b = integers(5, 50, 300, dtype, device)
    assert not product.fused(x, W)
    values, indices = ops.topk_encode(x, W, b, 20, backend="triton")
    expected = reference.topk_encode(x.float(), W.float(), b, 20)
    assert torch.equal(values, expected[0])
    assert torch.equal(indices, expected[1])


@pytest.mark.skipif(not CUDA, reason="bf16 products need a GPU")
@pytest.mark.gpu
def test_select_fp32_orders_by_the_accumulators(device):
    x, W, b = encoder(200, 768, 5000, torch.bfloat16, device)
    values, indices = ops.topk_encode(x, W, b, 64, backend="triton", select_fp32=True)
    true = x.double() @ W.double().T + b.double()
    kth = true.topk(64).values[:, -1:]
    assert (true.gather(1, indices) >= kth * (1 - 1e-5)).all()
    torch.testing.assert_close(values.double(), true.gather(1, indices), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_among_restricts_to_the_mask(k, device):
    x, W, b = encoder(6, 48, 70, torch.float32, device)
    mask = torch.zeros(70, dtype=torch.bool, device=device)
    mask[3::4] = True
    values, indices = ops.topk_encode_among(x, W, b, k, mask, relu=False, backend="triton")
    pre = (x @ W.T + b).masked_fill(~mask, float("-inf"))
    reach = min(k, int(mask.sum()))
    torch.testing.assert_close(values[:, :reach], pre.topk(reach).values)
    assert torch.equal(indices[:, :reach], pre.topk(reach).indices)
    assert (indices[:, reach:] == -1).all()


@pytest.mark.parametrize(("m", "expected"), [(300, 16), (262_144, 16), (262_145, 32), (2**20, 64)])
def test_groups_widen_with_the_dictionary(m, expected):
    assert product.group_width(m) == expected


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("m", [768, 16_384, 65_536, 131_072, 2**20])
@pytest.mark.parametrize("n", [1, 1000, 8192, 10**6])
def test_chunks_stay_within_the_memory_bound(n, m, itemsize):
    rows = product.chunk_rows(n, m, itemsize, 1024, 132)
    width = product.group_width(m)
    assert rows >= 1
    assert rows * (m // width * (width + 1) * itemsize + 1024) <= product.CHUNK_BYTES
    assert rows % 128 == 0 or rows < 128


@pytest.mark.skipif(not CUDA, reason="measures a GPU's memory")
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "d", "m", "k"), [(300_000, 48, 770, 64), (3000, 64, 2**20, 64), (3000, 50, 2**18, 7)])
def test_extra_memory_is_bounded(n, d, m, k, dtype, device):
    x, W, b = encoder(n, d, m, dtype, device)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    values, indices = ops.topk_encode(x, W, b, k, check=False)
    results = values.nbytes + indices.nbytes
    assert torch.cuda.max_memory_allocated() - before - results < 530 * 2**20


def test_the_reference_has_exact_gradients():
    x, W, b = (t.double().requires_grad_() for t in encoder(3, 5, 8, torch.float64, "cpu"))
    assert torch.autograd.gradcheck(lambda *args: reference.topk_encode(*args, 3)[0], (x, W, b))


def test_autocast_casts_the_operands(device):
    x, W, b = encoder(9, 48, 70, torch.float32, device)
    with torch.autocast(device, dtype=torch.bfloat16):
        values, _ = ops.topk_encode(x, W, b, 5)
    expected, _ = ops.topk_encode(x.bfloat16(), W.bfloat16(), b, 5)
    assert torch.equal(values, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k=0"),
        ({"k": 71}, "k=71"),
        ({"W_enc": torch.randn(70, 47)}, "W_enc"),
        ({"b_enc": torch.randn(69)}, "b_enc"),
        ({"b_dec": torch.randn(47)}, "b_dec"),
        ({"W_enc": torch.randn(70, 48).double()}, "float64"),
        ({"W_enc": torch.randn(48, 70).T}, "contiguous"),
        ({"x": torch.full((2, 48), float("inf"))}, "infinite"),
        ({"backend": "cuda"}, "backend='cuda'"),
    ],
)
def test_bad_input_names_the_argument(change, message):
    arguments = {"x": torch.randn(2, 48), "W_enc": torch.randn(70, 48), "b_enc": torch.randn(70), "k": 5} | change
    with pytest.raises(ValueError, match=message):
        ops.topk_encode(**arguments)
