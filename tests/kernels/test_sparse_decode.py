import pytest
import torch

from sparse_rep.kernels import ops, reference

CUDA = torch.cuda.is_available()
DTYPES = [torch.float32, torch.float16, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
SHAPES = (
    [(n, d, 3001, k) for n in (1, 63, 1000) for d in (48, 576, 768, 2304) for k in (1, 7, 64, 256)]
    if CUDA
    else [(1, 48, 30, 7), (5, 600, 11, 3)]
)


def codes(n, m, k, device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, k, generator=generator)
    # Latent 0 is in most tokens: more uses than one program sums, at full size.
    indices = torch.randint(-1, m, (n, k), generator=generator)
    indices[:, 0] = torch.where(torch.rand(n, generator=generator) < 0.9, 0, indices[:, 0])
    return values.to(device), indices.to(device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_gradients_match_fp64(shape, dtype, device, poisoned):
    n, d, m, k = shape
    values, indices = codes(n, m, k, device)
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(m, d, generator=generator).to(device, dtype).requires_grad_()
    b = torch.randn(d, generator=generator).to(device, dtype).requires_grad_()
    upstream = torch.randn(n, d, generator=generator).to(device, dtype)
    leaves = (values.requires_grad_(), W, b)
    wide = [t.detach().double().requires_grad_() for t in leaves]
    exact = reference.sparse_decode(wide[0], indices, wide[1], wide[2])
    oracle = (exact, *torch.autograd.grad(exact, wide, upstream.double()))
    for backend in ("triton", "auto"):
        out = ops.sparse_decode(values, indices, W, b, backend=backend)
        got = (out, *torch.autograd.grad(out, leaves, upstream))
        assert out.dtype == dtype
        for name, mine, expected in zip(("out", "values", "W_dec", "b_dec"), got, oracle, strict=True):
            error = (mine.double() - expected).norm() / expected.norm().clamp(min=1e-12)
            assert error < (3e-6 if dtype == torch.float32 else 8e-3), (backend, name)


@pytest.mark.parametrize("n", [3000 if CUDA else 300])
def test_a_latent_in_every_token_is_summed_in_parts(n, device, poisoned):
    generator = torch.Generator().manual_seed(0)
    indices = torch.stack([torch.zeros(n), torch.randint(1, 4, (n,), generator=generator)], -1).long().to(device)
    values = torch.ones(n, 2, device=device)
    W = torch.zeros(6, 16, device=device, requires_grad=True)
    upstream = torch.randint(-2, 3, (n, 16), generator=generator).float().to(device)
    (dW,) = torch.autograd.grad(ops.sparse_decode(values, indices, W, backend="triton"), W, upstream)
    expected = torch.zeros(6, 16, device=device)
    for slot in range(2):
        expected.index_add_(0, indices[:, slot], upstream)
    assert torch.equal(dW, expected)  # small integers: any order of summation gives the same


def test_unused_latents_and_empty_slots_get_zero_gradient(device, poisoned):
    values = torch.ones(2, 3, device=device, requires_grad=True)
    indices = torch.tensor([[4, -1, 1], [-1, -1, -1]], device=device)
    W = torch.ones(5, 16, device=device, requires_grad=True)
    out = ops.sparse_decode(values, indices, W, backend="triton")
    out.sum().backward()
    assert out[1].eq(0).all()
    assert values.grad.tolist() == [[16.0, 0.0, 16.0], [0.0, 0.0, 0.0]]
    assert W.grad.sum(-1).tolist() == [0.0, 16.0, 0.0, 0.0, 16.0]


@pytest.mark.skipif(not CUDA, reason="a claim about a GPU's scheduling")
@pytest.mark.gpu
def test_gradients_are_the_same_bits_every_time(device):
    values, indices = codes(2000, 500, 32, device)
    W = torch.randn(500, 768, device=device, requires_grad=True)
    upstream = torch.randn(2000, 768, device=device)
    values.requires_grad_()
    first, second = (
        torch.autograd.grad(ops.sparse_decode(values, indices, W), (values, W), upstream) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_reference_has_exact_gradients():
    values, indices = codes(3, 6, 4, "cpu")
    W = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    values = values.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v, w: reference.sparse_decode(v, indices, w), (values, W))


def test_bad_input_names_the_argument():
    W = torch.randn(5, 8)
    with pytest.raises(ValueError, match="indices"):
        ops.sparse_decode(torch.zeros(2, 3), torch.zeros(2, 2).long(), W)
    with pytest.raises(ValueError, match=r"-1\.\.4"):
        ops.sparse_decode(torch.zeros(2, 3), torch.full((2, 3), 5), W, check=True)
    with pytest.raises(ValueError, match="b_dec"):
        ops.sparse_decode(torch.zeros(2, 3), torch.zeros(2, 3).long(), W, torch.zeros(7))
