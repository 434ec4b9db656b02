"""The scores of the hierarchy toy on dictionaries whose answer is known: perfect, absorbing, random."""

import pytest
import torch

from sparse_rep.evaluation.fidelity.hierarchy import N_FEATURES, N_PARENTS, PARENT_OF, HierarchyWorlds
from sparse_rep.evaluation.fidelity.hierarchy_scores import HierarchyScores, geometry, hierarchy_scores
from sparse_rep.saes.unit_rows import random_unit_rows

IN_ORDER = torch.arange(N_FEATURES)


@pytest.fixture(scope="module", params=[0.0, 0.1])
def world(request: pytest.FixtureRequest) -> HierarchyWorlds:
    return HierarchyWorlds((0,), request.param, 200)


def scores_of(world: HierarchyWorlds, atoms: torch.Tensor, codes: torch.Tensor) -> HierarchyScores:
    x, truth = world.heldout(4000)
    return hierarchy_scores(atoms, codes, x[0], codes @ atoms, world.directions[0], truth[0])


def test_the_true_dictionary_in_any_order_is_perfect(world: HierarchyWorlds) -> None:
    shuffled = torch.randperm(N_FEATURES, generator=torch.Generator().manual_seed(1))
    truth = world.heldout(4000)[1][0]
    found = scores_of(world, 3 * world.directions[0][shuffled], truth[:, shuffled] / 3)
    assert found.absorption == pytest.approx(0, abs=1e-6)
    assert found.flat_mse == pytest.approx(0, abs=1e-9)
    assert found.hierarchical_mse == pytest.approx(0, abs=1e-9)
    assert found.nmse == pytest.approx(0, abs=1e-9)
    assert found.recovery == pytest.approx(1)
    assert found.l0 == (truth > 0).sum(-1).float().mean().item()


def test_children_learnt_in_their_parents_direction_score_one() -> None:
    directions = torch.eye(N_FEATURES)
    absorbing = directions.clone()
    absorbing[N_PARENTS:] = directions[list(PARENT_OF)]
    found = geometry(absorbing, IN_ORDER, directions)
    assert found["absorption"] == 1
    # Each child overlaps fully with one of 11 parents; siblings overlap fully, 2 of a child's 8 others.
    assert found["hierarchical_mse"] == pytest.approx(1 / N_PARENTS)
    pairs = N_PARENTS * (N_PARENTS - 1) + 9 * 8
    assert found["flat_mse"] == pytest.approx(9 * 2 / pairs)


def test_a_latent_for_parent_and_child_together_is_absorption_of_one_over_root_two(world: HierarchyWorlds) -> None:
    """What sparse training prefers: one latent for child and parent together, the parent's own silent meanwhile."""
    directions, truth = world.directions[0], world.heldout(4000)[1][0]
    parents = torch.tensor(PARENT_OF)
    atoms, codes = directions.clone(), truth.clone()
    atoms[N_PARENTS:] += directions[parents]
    for child, parent in enumerate(PARENT_OF):
        codes[truth[:, N_PARENTS + child] > 0, parent] = 0
    found = scores_of(world, atoms, codes)
    assert found.absorption == pytest.approx(0.5**0.5, abs=1e-5)
    assert found.l0 == pytest.approx(1, abs=1e-6)


def test_a_random_dictionary_is_neither_absorbing_nor_right(world: HierarchyWorlds) -> None:
    generator = torch.Generator().manual_seed(0)
    found = [
        geometry(random_unit_rows(N_FEATURES, N_FEATURES, generator), IN_ORDER, world.directions[0]) for _ in range(200)
    ]
    mean = {name: sum(f[name] for f in found) / len(found) for name in found[0]}
    assert mean["absorption"] == pytest.approx(0, abs=0.02)
    assert mean["recovery"] == pytest.approx(0, abs=0.02)
    # Squared cosines of random directions are 1/d in the mean.
    assert mean["hierarchical_mse"] == pytest.approx(1 / N_FEATURES, abs=0.005)


def test_an_atom_of_no_length_counts_as_not_found() -> None:
    directions = torch.eye(N_FEATURES)
    found = geometry(torch.zeros_like(directions), IN_ORDER, directions)
    assert found["recovery"] == 0
    assert found["absorption"] == 0
