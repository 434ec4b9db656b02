"""TopK: hand-worked codes and losses, revival of dead latents, recovery of a planted dictionary."""

import pytest
import torch

from sparse_rep.activations import ActivationBatch, TensorSource
from sparse_rep.codes import SparseCodes
from sparse_rep.config import TopKConfig, TrainConfig
from sparse_rep.metrics import ReconstructionStats
from sparse_rep.saes.geometric_median import geometric_median
from sparse_rep.saes.topk import TopK
from sparse_rep.saes.training.trainer import train


def identity_dictionary(k: int = 2, **settings: object) -> TopK:
    dictionary = TopK(TopKConfig(n_latents=4, k=k, **settings), d_in=4)  # pyright: ignore
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.eye(4))
        dictionary.W_dec.copy_(torch.eye(4))
    return dictionary


def planted(n: int, seed: int = 0, m: int = 48, d: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of 3 of m unit atoms with magnitudes in 0.5..1.5, plus a constant."""
    rng = torch.Generator().manual_seed(seed)
    atoms = torch.randn(m, d, generator=torch.Generator().manual_seed(7))
    atoms = atoms / atoms.norm(dim=-1, keepdim=True)
    picks = torch.rand(n, m, generator=rng).topk(3).indices
    codes = torch.zeros(n, m).scatter(1, picks, torch.rand(n, 3, generator=rng) + 0.5)
    return codes @ atoms + 0.7, atoms


def settings(**changes: object) -> TrainConfig:
    base = {"n_tokens": 400_000, "batch_tokens": 512, "buffer_tokens": 4096, "lr": 4e-3, "log_every": 50}
    return TrainConfig.checked({**base, **changes})


def test_the_two_largest_coordinates_are_kept() -> None:
    codes = identity_dictionary().encode(torch.tensor([[1.0, -5.0, 3.0, 2.0]]))
    assert codes.indices.tolist() == [[2, 3]]
    assert codes.values.tolist() == [[3.0, 2.0]]


def test_fvu_is_the_squared_error_over_the_variance() -> None:
    x = torch.tensor([[3.0, 0.0, 0.0, 1.0], [1.0, 0.0, 2.0, 0.0]])
    losses = identity_dictionary(k=1).loss(ActivationBatch(x))
    # Kept: 3 of the first row and 2 of the second, so the error is 1 + 1. About the mean (2, 0, 1, 0.5) the variance is
    # (1 + 1 + 0.25) twice = 4.5.
    assert losses["fvu"].item() == pytest.approx(2 / 4.5)
    assert losses["l0"].item() == 1.0


def test_k_beyond_the_dictionary_is_refused() -> None:
    with pytest.raises(ValueError, match="lower k or widen"):
        TopKConfig(n_latents=4, k=5)


def test_scaled_activations_give_scaled_codes() -> None:
    x, _ = planted(64)
    torch.manual_seed(0)
    codes = []
    for factor in (1.0, 250.0):
        dictionary = TopK(TopKConfig(n_latents=32, k=4), 32)
        dictionary.initialise(x * factor, torch.Generator().manual_seed(0))
        codes.append(dictionary.encode(x * factor))
    assert torch.equal(codes[0].indices, codes[1].indices)
    torch.testing.assert_close(codes[0].values * 250, codes[1].values)


def test_the_gradient_along_an_atom_is_removed_and_atoms_stay_unit() -> None:
    x, _ = planted(128)
    dictionary = TopK(TopKConfig(n_latents=32, k=4), 32)
    dictionary.initialise(x, torch.Generator().manual_seed(0))
    dictionary.loss(ActivationBatch(x))["loss"].backward()
    dictionary.before_step()
    assert dictionary.W_dec.grad is not None
    assert (dictionary.W_dec.grad * dictionary.W_dec).sum(-1).abs().max() < 1e-6
    with torch.no_grad():
        dictionary.W_dec.sub_(0.3 * dictionary.W_dec.grad)
    dictionary.after_step()
    torch.testing.assert_close(dictionary.atoms.norm(dim=-1), torch.ones(32))


def test_auxk_trains_the_encoder_of_dead_latents() -> None:
    """A public library gives them no encoder gradient, so its dead latents cannot learn when to fire."""
    dictionary = identity_dictionary(k=1, dead_after_tokens=10, k_aux=2)
    dictionary.firing.tokens_since_fired[2:] = 10
    with torch.no_grad():
        dictionary.W_enc[2:].mul_(0.5)  # they see the error, at half its size
    losses = dictionary.loss(ActivationBatch(torch.tensor([[5.0, 1.0, 2.0, 3.0], [4.0, 2.0, 1.0, 2.0]])))
    gradient = torch.autograd.grad(losses["aux"], dictionary.W_enc)[0]
    assert (gradient[2:] != 0).any()
    assert (gradient[:2] == 0).all()


def test_dead_is_counted_in_tokens() -> None:
    dictionary = identity_dictionary(k=1, dead_after_tokens=6)
    x = torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1) + torch.rand(3, 4) * 0.1
    dictionary.loss(ActivationBatch(x))
    assert dictionary.dead.tolist() == [False] * 4
    dictionary.loss(ActivationBatch(x))
    assert dictionary.dead.tolist() == [False, True, True, True]


def test_geometric_median_resists_an_outlier() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [0.0, 1000.0]])
    median = geometric_median(x)
    assert median.norm() < 1.0
    assert x.mean(0).norm() > 100


def test_trained_topk_recovers_a_planted_dictionary() -> None:
    x, atoms = planted(20_000)
    dictionary = TopK(TopKConfig(n_latents=64, k=3, dead_after_tokens=4000), 32)
    train({"topk": dictionary}, TensorSource(x), settings())
    best = (atoms @ dictionary.atoms.T).max(dim=-1).values
    assert (best > 0.95).float().mean() > 0.9
    held_out, _ = planted(2_000, seed=1)
    stats = ReconstructionStats(32, 64)
    codes = dictionary.encode(held_out)
    stats.update(held_out, dictionary.decode(codes), codes)
    assert stats.summary()["explained_variance"] > 0.9
    assert stats.summary()["l0"] <= 3.0


def test_noise_without_structure_is_not_explained() -> None:
    """The null of the test above: k directions of many cannot explain isotropic noise much beyond k of d."""
    noise = torch.randn(20_000, 32, generator=torch.Generator().manual_seed(0))
    dictionary = TopK(TopKConfig(n_latents=64, k=3, dead_after_tokens=4000), 32)
    train({"topk": dictionary}, TensorSource(noise), settings(n_tokens=100_000))
    held_out = torch.randn(2_000, 32, generator=torch.Generator().manual_seed(1))
    stats = ReconstructionStats(32, 64)
    codes = dictionary.encode(held_out)
    stats.update(held_out, dictionary.decode(codes), codes)
    assert stats.summary()["explained_variance"] < 0.55


def test_explained_variance_is_worked_by_hand() -> None:
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]])
    x_hat = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    codes = SparseCodes(torch.tensor([[1.0], [2.0], [0.0]]), torch.tensor([[0], [0], [-1]]), 3)
    stats = ReconstructionStats(2, 3)
    stats.update(x[:1], x_hat[:1], SparseCodes(codes.values[:1], codes.indices[:1], 3))
    later = ReconstructionStats(2, 3)
    later.update(x[1:], x_hat[1:], SparseCodes(codes.values[1:], codes.indices[1:], 3))
    stats.merge(later)
    # Mean (2/3, 4/3); sum of squares 20 minus 3 * (4/9 + 16/9) = 40/3; squared error 2.
    assert stats.summary()["explained_variance"] == pytest.approx(1 - 2 / (40 / 3))
    assert stats.summary()["l0"] == pytest.approx(2 / 3)
    assert stats.summary()["dead_share"] == pytest.approx(2 / 3)
