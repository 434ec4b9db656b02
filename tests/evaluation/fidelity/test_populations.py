"""A population trains what the coder of its name would: the same codes, the same losses, each seed for itself."""

from collections.abc import Callable

import pytest
import torch

from sparse_rep.activations import ActivationBatch
from sparse_rep.config_dictionary import BatchTopKConfig, MPConfig, StandardConfig
from sparse_rep.evaluation.fidelity.hierarchy import EXPECTED_L0, HierarchyWorlds
from sparse_rep.evaluation.fidelity.populations import (
    BatchTopKPopulation,
    Encoders,
    MatryoshkaPopulation,
    Population,
    SparsityControl,
    StandardPopulation,
    initial_atoms,
)
from sparse_rep.evaluation.fidelity.pursuit_population import PursuitPopulation
from sparse_rep.evaluation.fidelity.recipe import PopulationTraining, clip_by_seed, learning_rate
from sparse_rep.kernels import reference
from sparse_rep.saes.batchtopk import BatchTopK
from sparse_rep.saes.mp import MatchingPursuit
from sparse_rep.saes.standard import Standard

SEEDS = (0, 3)
N = 60


@pytest.fixture
def x() -> torch.Tensor:
    return HierarchyWorlds(SEEDS, 0.1, N).batch(0)


BUILD: dict[str, Callable[[tuple[int, ...]], Population]] = {
    "mp": lambda seeds: PursuitPopulation(initial_atoms(20, 20, seeds), 0.05, 20),
    "standard": lambda seeds: StandardPopulation(initial_atoms(20, 20, seeds), EXPECTED_L0, 100, 0.4),
    "matryoshka": lambda seeds: MatryoshkaPopulation(initial_atoms(20, 20, seeds), EXPECTED_L0, 100, seeds, 0.4),
    "batchtopk": lambda seeds: BatchTopKPopulation(initial_atoms(20, 20, seeds), EXPECTED_L0, 3, 20),
}


def randomise(population: Population) -> Population:
    """Biases off zero, so that a wrong one shows."""
    for name, parameter in population.named_parameters():
        if ".b_" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return population


def test_pursuit_has_the_codes_loss_and_gradient_of_the_coder(x: torch.Tensor) -> None:
    population = BUILD["mp"](SEEDS)
    losses = population.losses(x, 0)
    losses.sum().backward()
    codes = population.encode(x)
    for i in range(len(SEEDS)):
        coder = MatchingPursuit(MPConfig(n_latents=20, k=20, tolerance=0.05 / 20**0.5), d_in=20)
        with torch.no_grad():
            coder.W_dec.copy_(population.atoms[i])
        own = coder.encode(x[i])
        torch.testing.assert_close(codes[i], own.dense().detach(), atol=1e-5, rtol=0)
        error = (x[i] - coder.decode(own)).square().sum(-1).mean()
        torch.testing.assert_close(losses[i], error)
        torch.testing.assert_close(
            population.get_parameter("W").grad[i], torch.autograd.grad(error, coder.W_dec)[0], atol=1e-5, rtol=1e-4
        )


def test_pursuit_follows_the_specification_to_the_step_limit(x: torch.Tensor) -> None:
    population = PursuitPopulation(initial_atoms(20, 20, SEEDS), 0.0, max_steps=4)
    for i in range(len(SEEDS)):
        values, indices, _ = reference.matching_pursuit(x[i], population.atoms[i], 4)
        dense = torch.zeros(N, 20).scatter_add(1, indices.clamp(min=0), values)
        torch.testing.assert_close(population.encode(x)[i], dense.detach(), atol=1e-5, rtol=0)


def test_standard_has_the_codes_and_loss_of_the_coder(x: torch.Tensor) -> None:
    population = randomise(BUILD["standard"](SEEDS))
    assert isinstance(population, StandardPopulation)
    losses, codes = population.losses(x, 99), population.encode(x)
    for i in range(len(SEEDS)):
        coder = _same_weights(
            Standard(StandardConfig(n_latents=20, penalty=SparsityControl.START, penalty_warmup_tokens=0), 20),
            population.encoders, i, 0.4,
        )  # fmt: skip
        torch.testing.assert_close(codes[i] * 0.4, coder.encode(x[i]).dense())
        own = coder.loss(ActivationBatch(x[i]))
        spread = (x[i] / 0.4 - (x[i] / 0.4).mean(0)).square().sum(-1).mean()
        torch.testing.assert_close(losses[i], own["loss"] * spread, rtol=1e-4, atol=1e-5)


def test_batchtopk_keeps_the_codes_that_the_coder_keeps(x: torch.Tensor) -> None:
    population = randomise(BUILD["batchtopk"](SEEDS))
    assert isinstance(population, BatchTopKPopulation)
    losses = population.losses(x, 50)
    for i in range(len(SEEDS)):
        # The reference code keeps one more than l0 * n; asked for as many, the coder keeps the same.
        config = BatchTopKConfig(n_latents=20, k=(int(EXPECTED_L0 * N) + 1) / N, aux_coefficient=0)
        coder = _same_weights(BatchTopK(config, 20), population.encoders, i, 1.0)
        own = coder.loss(ActivationBatch(x[i]))
        spread = (x[i] - x[i].mean(0)).square().sum(-1).mean()
        torch.testing.assert_close(losses[i], own["loss"] * spread, rtol=1e-4, atol=1e-5)


def test_matryoshka_with_every_prefix_whole_is_standard(x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    nested, plain = randomise(BUILD["matryoshka"](SEEDS)), randomise(BUILD["standard"](SEEDS))
    monkeypatch.setattr(MatryoshkaPopulation, "prefixes", lambda self, step: torch.full((len(SEEDS), 5), 20))
    torch.testing.assert_close(nested.losses(x, 10), plain.losses(x, 10))


def test_prefixes_rise_from_the_latents_that_explain_most(x: torch.Tensor) -> None:
    population = BUILD["matryoshka"](SEEDS)
    assert isinstance(population, MatryoshkaPopulation)
    lengths = torch.stack([population.prefixes(step) for step in range(2000)])
    assert (lengths[..., -1] == 20).all()
    assert all(len(set(row)) == 5 for row in lengths[:, 0].tolist())
    # Drawn first with weight sqrt(l) - sqrt(l-1): short prefixes are the likelier.
    share = torch.bincount(lengths[..., :-1].flatten(), minlength=21)[1:20] / lengths[..., :-1].numel()
    assert share[0] > 2 * share[3] > share[18] > 0
    population.energy[0] = torch.arange(20.0)
    inside = population._inside(torch.tensor([[1, 3, 20], [20, 20, 20]]))
    assert inside[0, 0].nonzero().flatten().tolist() == [19]
    assert inside[0, 1].nonzero().flatten().tolist() == [17, 18, 19]
    assert inside[1].all()


def test_the_penalty_is_steered_only_after_its_rise() -> None:
    control = SparsityControl(2, target=1.0, n_steps=50)
    dense, sparse = torch.ones(2, 4, 3), torch.zeros(2, 4, 3)
    codes = torch.stack([dense[0], sparse[0]])
    assert control.weights(codes, 4).tolist() == pytest.approx([0.05, 0.05])
    assert control.weights(codes, 11).tolist() == pytest.approx([0.1 * 1.0003, 0.1 * 0.9997])


@pytest.mark.parametrize("method", BUILD)
def test_a_seed_learns_the_same_whoever_is_beside_it(method: str) -> None:
    together, alone = (trained(method, seeds, 40).atoms for seeds in (SEEDS, SEEDS[1:]))
    torch.testing.assert_close(together[1], alone[0], atol=2e-3, rtol=0)
    assert (together[0] - together[1]).abs().max() > 0.1


@pytest.mark.parametrize("method", BUILD)
def test_a_training_that_stopped_goes_on_to_the_same_end(method: str) -> None:
    whole = trained(method, SEEDS, 40)
    worlds = HierarchyWorlds(SEEDS, 0.1, N)
    first = PopulationTraining(BUILD[method](SEEDS), worlds.batch, 40)
    for step in first.steps():
        if step == 17:
            break
    second = PopulationTraining(BUILD[method](SEEDS), HierarchyWorlds(SEEDS, 0.1, N).batch, 40)
    second.load_state_dict(first.state_dict())
    assert list(second.steps()) == list(range(18, 41))
    assert torch.equal(second.population.atoms, whole.atoms)


def test_the_learning_rate_rises_stays_and_falls_to_a_tenth() -> None:
    rates = [learning_rate(step, 1000) for step in range(1000)]
    assert rates[0] == 0
    assert rates[50] == pytest.approx(1.5e-2)
    assert set(rates[100:801]) == {3e-2}
    assert rates[900] == pytest.approx(3e-2 * 0.55)
    assert rates[-1] == pytest.approx(3e-3, rel=0.05)


def test_each_seed_is_clipped_by_its_own_norm() -> None:
    gradients = [torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([[[4.0]], [[0.4]]])]
    clip_by_seed(gradients)
    torch.testing.assert_close(gradients[0], torch.tensor([[0.6, 0.0], [0.3, 0.0]]))
    torch.testing.assert_close(gradients[1], torch.tensor([[[0.8]], [[0.4]]]))


def trained(method: str, seeds: tuple[int, ...], n_steps: int) -> Population:
    training = PopulationTraining(BUILD[method](seeds), HierarchyWorlds(seeds, 0.1, N).batch, n_steps)
    assert list(training.steps())[-1] == n_steps
    return training.population


def _same_weights(coder: Standard | BatchTopK, encoders: Encoders, i: int, scale: float) -> Standard | BatchTopK:
    """The toy's encoders do not subtract b_dec; the coder's do, so its encoder bias takes it back."""
    with torch.no_grad():
        coder.W_enc.copy_(encoders.W_enc[i])
        coder.W_dec.copy_(encoders.W_dec[i])
        coder.b_dec.copy_(encoders.b_dec[i, 0])
        coder.b_enc.copy_(encoders.b_enc[i, 0] + encoders.W_enc[i] @ encoders.b_dec[i, 0])
        coder.scale.fill_(scale)
        coder.target_scale.fill_(scale)
    return coder
