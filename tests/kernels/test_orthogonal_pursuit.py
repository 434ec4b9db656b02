import pytest
import torch

from sparse_rep.kernels import ops, reference


def problem(n=4, d=12, m=40, device="cpu"):
    generator = torch.Generator().manual_seed(n)
    atoms = torch.nn.functional.normalize(torch.randn(m, d, generator=generator), dim=-1)
    return torch.randn(n, d, generator=generator).to(device), atoms.to(device)


def test_codes_equal_the_references(device):
    x, atoms = (t.double() for t in problem(device=device))
    for mine, oracle in zip(
        ops.orthogonal_matching_pursuit(x, atoms, 5),
        ops.orthogonal_matching_pursuit(x, atoms, 5, backend="reference"),
        strict=True,
    ):
        torch.testing.assert_close(mine, oracle)


def test_the_residual_is_orthogonal_to_every_chosen_atom(device):
    x, atoms = problem(device=device)
    values, indices, norms = ops.orthogonal_matching_pursuit(x, atoms, 6)
    residual = x - reference.sparse_decode(values, indices, atoms)
    assert (torch.einsum("nkd,nd->nk", atoms[indices], residual).abs() < 1e-5).all()
    torch.testing.assert_close(residual.norm(dim=-1), norms[:, -1], atol=1e-5, rtol=1e-4)


def test_scikit_learn_agrees():
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, atoms = (t.double() for t in problem())
    values, indices, _ = ops.orthogonal_matching_pursuit(x, atoms, 5)
    dense = torch.zeros(4, 40, dtype=torch.float64).scatter_add_(1, indices, values)
    expected = linear_model.orthogonal_mp(atoms.T.numpy(), x.T.numpy(), n_nonzero_coefs=5)
    torch.testing.assert_close(dense, torch.from_numpy(expected.T))


def test_a_sparse_signal_is_recovered_and_then_the_row_stops(device):
    _, atoms = problem(d=64, device=device)
    x = (3 * atoms[7] - 2 * atoms[30])[None]
    values, indices, norms = ops.orthogonal_matching_pursuit(x, atoms, 6)
    assert indices.tolist() == [[7, 30, -1, -1, -1, -1]]
    assert values[0].tolist() == pytest.approx([3, -2, 0, 0, 0, 0], abs=1e-5)
    assert float(norms[0, -1]) < 1e-5
