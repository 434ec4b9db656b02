from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_rep.kernels import ops, pursuit_triton, reference

CUDA = torch.cuda.is_available()
SHAPES = (
    [(n, d, 3001, k) for n in (1, 63, 1000) for d in (48, 576, 768, 2304) for k in (1, 7, 64)]
    + [(40, 768, 24_576, 16), (40, 576, 9000, 256)]
    if CUDA
    else [(1, 48, 300, 7), (4, 33, 1100, 5)]
)
BACKENDS = ["triton", "auto"]


def dictionary(n, d, m, device, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed + d)
    atoms = torch.nn.functional.normalize(torch.randn(m, d, generator=generator), dim=-1)
    # Norms as far apart as a language model's.
    x = torch.randn(n, d, generator=generator) * torch.logspace(0, 2, n)[:, None]
    return x.to(device, dtype), atoms.to(device, dtype)


def residuals(x, atoms, values, indices):
    """(n, k + 1, d) in fp64: x minus each decoded prefix, whatever recursion made the codes."""
    rows = values.double()[..., None] * atoms.double()[indices.clamp(min=0)]
    steps = torch.cat([torch.zeros_like(rows[:, :1]), rows], 1).cumsum(1)
    return x.double()[:, None] - steps


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fp32_pursuit_obeys_the_pursuit_identities(shape, backend, nonnegative, device, poisoned):
    n, d, m, k = shape
    x, atoms = dictionary(n, d, m, device)
    values, indices, norms = ops.matching_pursuit(x, atoms, k, nonnegative=nonnegative, backend=backend)
    scale = x.double().norm(dim=-1, keepdim=True)
    left = residuals(x, atoms, values, indices)
    true = left.norm(dim=-1)
    assert (true.diff(dim=-1) <= 1e-5 * scale).all()
    assert ((true[:, 1:] ** 2 - true[:, :-1] ** 2 + values.double() ** 2).abs() <= 1e-5 * scale**2).all()
    picked = atoms.double()[indices.clamp(min=0)]
    assert ((picked * left[:, 1:]).sum(-1).abs() <= 1e-5 * scale).all()
    assert ((true[:, 1:] - norms.double()).abs() <= 1e-5 * scale).all()
    for step in range(0, k, max(1, k // 7)):
        scores = left[:, step] @ atoms.double().T
        best = (scores if nonnegative else scores.abs()).amax(-1)
        mine = scores.gather(1, indices[:, step, None])[:, 0]
        mine = mine if nonnegative else mine.abs()
        assert (mine >= best - 1e-5 * scale[:, 0]).all()


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("method", ["gram", "product"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_codes_equal_the_references_in_order(backend, method, nonnegative, device, poisoned):
    x, atoms = dictionary(5, 40, 90, device)
    got = ops.matching_pursuit(x, atoms, 6, nonnegative=nonnegative, method=method, backend=backend)
    expected = reference.matching_pursuit(x.double(), atoms.double(), 6, nonnegative=nonnegative)
    assert torch.equal(got[1], expected[1])
    for mine, oracle in zip(got[::2], expected[::2], strict=True):
        assert ((mine - oracle).abs() <= 1e-5 * x.double().norm(dim=-1, keepdim=True)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_prefix_is_the_code_for_fewer_steps(backend, device):
    x, atoms = dictionary(3, 40, 90, device)
    long, short = (ops.matching_pursuit(x, atoms, k, backend=backend) for k in (8, 3))
    assert all(torch.equal(a[:, :3], b) for a, b in zip(long, short, strict=True))


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_a_worked_case(backend, device):
    # x = (3, 0.8): atom 1 is (0.6, 0.8), so <x, .> = 3, 2.44, 0.8; what is left of x is (0, 0.8).
    atoms = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], device=device)
    x = torch.tensor([[3.0, 0.8]], device=device)
    values, indices, norms = ops.matching_pursuit(x, atoms, 4, backend=backend)
    assert indices.tolist() == [[0, 2, -1, -1]]
    torch.testing.assert_close(values[0], torch.tensor([3.0, 0.8, 0.0, 0.0], device=device))
    torch.testing.assert_close(norms[0], torch.tensor([0.8, 0.0, 0.0, 0.0], device=device))


@pytest.mark.parametrize("method", ["gram", "product"])
@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_edge_rows_stop_and_leave_the_others_alone(backend, method, device, poisoned):
    x, atoms = dictionary(4, 40, 90, device)
    atoms[70] = atoms[20]  # duplicates: the lower index is chosen
    x[0] = 0
    x[1] = float("nan")
    x[2] = 5 * atoms[70]
    values, indices, norms = ops.matching_pursuit(x, atoms, 5, tol=1e-3, method=method, backend=backend, check=False)
    assert (indices[:2] == -1).all()
    assert (values[:2] == 0).all()
    assert norms[1].isnan().all()
    assert (norms[2] < 1e-3).all()
    assert indices[2].tolist() == [20, -1, -1, -1, -1]
    assert float(values[2, 0]) == pytest.approx(5, rel=1e-5)
    assert (indices[3] >= 0).all()
    alone = ops.matching_pursuit(x[3:], atoms, 5, tol=1e-3, method=method, backend=backend)
    assert torch.equal(indices[3:], alone[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES[:2] + SHAPES[-3:], ids=str)
def test_gradients_equal_those_through_the_unrolled_loop(shape, backend, device, poisoned):
    n, d, m, k = shape
    x, atoms = (t.requires_grad_() for t in dictionary(n, d, m, device))
    values, indices, _ = ops.matching_pursuit(x, atoms, k, backend=backend)
    upstream = torch.randn(values.shape, generator=torch.Generator().manual_seed(1)).to(device)
    got = torch.autograd.grad(values, (x, atoms), upstream)
    wide = [t.detach().double().requires_grad_() for t in (x, atoms)]
    residual, steps = wide[0], []
    for step in range(k):  # the loop, along the picks that were made
        row = wide[1][indices[:, step].clamp(min=0)]
        value = torch.where(indices[:, step] >= 0, (row * residual).sum(-1), 0)
        residual = residual - value[:, None] * row
        steps.append(value)
    expected = torch.autograd.grad(torch.stack(steps, -1), wide, upstream.double())
    for mine, oracle in zip(got, expected, strict=True):
        assert (mine.double() - oracle).norm() / oracle.norm() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16] if CUDA else [torch.float32], ids=str)
@pytest.mark.parametrize("m", [3000, 4608, 512] if CUDA else [520])
def test_the_gram_matrix_is_symmetric_and_complete(m, dtype, device, poisoned):
    _, atoms = dictionary(1, 80, m, device, dtype)
    gram = ops.gram_matrix(atoms, backend="triton")
    assert gram.dtype == (torch.float16 if dtype == torch.bfloat16 else dtype)
    assert torch.equal(gram, gram.T)
    assert (gram.diagonal() == 1).all()
    exact = (atoms.double() @ atoms.double().T).fill_diagonal_(1)
    assert (gram.double() - exact).abs().max() < {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 5e-4}[dtype]


def test_gradients_are_exact_in_fp64():
    x, atoms = dictionary(3, 6, 10, "cpu", torch.float64)
    leaves = (x.requires_grad_(), atoms.requires_grad_())
    for run in (partial(ops.matching_pursuit, backend="auto"), partial(ops.matching_pursuit, backend="reference")):
        assert torch.autograd.gradcheck(lambda a, b, run=run: run(a, b, 4, check=False)[0], leaves)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans())
def test_pursuit_never_increases_the_residual(seed, k, nonnegative):
    x, atoms = dictionary(4, 7, 20, "cpu", seed=seed)
    _, _, norms = ops.matching_pursuit(x, atoms, k, nonnegative=nonnegative)
    scale = x.norm(dim=-1, keepdim=True)
    assert (torch.cat([scale, norms], 1).diff(dim=-1) <= 1e-6 * scale).all()


def near_ties(n, d, m, device, dtype, nonnegative):
    """Atoms in pairs nearly equal, and of many tokens the n whose third pick is the closest call."""
    x, atoms = dictionary(400 * n, d, m, "cpu")
    twins = atoms + 1e-4 * torch.randn(atoms.shape, generator=torch.Generator().manual_seed(3))
    atoms = torch.nn.functional.normalize(torch.cat([atoms, twins]), dim=-1).to(dtype)
    x = torch.nn.functional.normalize(x, dim=-1).to(dtype)
    values, indices, _ = reference.matching_pursuit(x.double(), atoms.double(), 2, nonnegative=nonnegative)
    scores = residuals(x, atoms, values, indices)[:, -1] @ atoms.double().T
    best = (scores if nonnegative else scores.abs()).topk(2).values
    ahead = best[:, 0] / best[:, 1] - 1
    close = ahead.where(ahead > 1e-5, torch.inf).argsort()[:n]  # below that fp32 cannot tell either
    return x[close].to(device), atoms.to(device)


@pytest.mark.parametrize("method", ["gram", "product"])
@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16] if CUDA else [torch.float16], ids=str)
def test_16_bit_pursuit_settles_near_ties_by_the_residual(dtype, nonnegative, method, device, poisoned):
    x, atoms = near_ties(8, 48, 100, device, dtype, nonnegative)
    _, indices, _ = ops.matching_pursuit(x, atoms, 4, nonnegative=nonnegative, method=method, backend="triton")
    expected = reference.matching_pursuit(x.double(), atoms.double(), 4, nonnegative=nonnegative)[1]
    assert torch.equal(indices, expected)


@pytest.mark.skipif(not CUDA, reason="bf16 products need a GPU")
@pytest.mark.gpu
@pytest.mark.parametrize("method", ["gram", "product"])
@pytest.mark.parametrize("shape", [(200, 768, 24_576, 32), (200, 2304, 16_384, 64), (200, 576, 4608, 32)], ids=str)
def test_bf16_pursuit_ends_where_the_oracle_does(shape, method, device, poisoned):
    n, d, m, k = shape
    x, atoms = dictionary(n, d, m, device, torch.bfloat16)
    values, indices, norms = ops.matching_pursuit(x, atoms, k, method=method)
    left = residuals(x, atoms, values, indices)
    for step in range(k):
        scores = left[:, step] @ atoms.double().T
        assert (scores.gather(1, indices[:, step, None])[:, 0] >= 0.99 * scores.amax(-1)).all(), step
    oracle = reference.matching_pursuit(x.double(), atoms.double(), k)[2][:, -1]
    assert (left[:, -1].norm(dim=-1) / oracle - 1).abs().max() < 1e-3
    assert ((norms[:, -1] - left[:, -1].norm(dim=-1)).abs() < 1e-3 * x.double().norm(dim=-1)).all()


@pytest.mark.parametrize(
    ("m", "expected"), [(16_384, (4, 0)), (24_576, (4, 2)), (9000, (2, 1)), (20_000, (4, 1)), (100, (1, 0))]
)
def test_pieces_cover_the_atoms_with_little_to_spare(m, expected):
    assert pursuit_triton.pieces(m, 4096) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k=0"),
        ({"atoms": 2 * torch.eye(8)}, "norm 2"),
        ({"atoms": torch.eye(7)}, "atoms"),
        ({"atoms": torch.eye(8).double()}, "float64"),
        ({"gram": torch.eye(7)}, "gram"),
        ({"method": "gram", "gram_budget": 100}, "gram_budget"),
        ({"x": torch.full((1, 8), float("nan"))}, "NaN"),
    ],
)
def test_bad_input_names_the_argument(change, message):
    arguments = {"x": torch.randn(2, 8), "atoms": torch.eye(8), "k": 3} | change
    with pytest.raises(ValueError, match=message):
        ops.matching_pursuit(**arguments)
