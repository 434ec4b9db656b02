"""The hierarchy toy's world: who is active with whom, how often, in which directions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_rep.evaluation.fidelity.hierarchy import (
    CHILDREN,
    EXPECTED_L0,
    N_FEATURES,
    N_PARENTS,
    PARENT_OF,
    PARENT_PROBABILITY,
    RMS_NORM,
    HierarchyWorlds,
    directions,
    magnitudes,
    mixing,
    siblings,
)
from sparse_rep.evaluation.fidelity.streams import TOKENS, WORLD, generator


@pytest.fixture(scope="module")
def active() -> torch.Tensor:
    return magnitudes(50_000, generator(0, TOKENS)) > 0


def test_one_parent_is_active_at_a_time_as_often_as_the_paper_says(active: torch.Tensor) -> None:
    parents = active[:, :N_PARENTS]
    assert (parents.sum(-1) == 1).all()
    torch.testing.assert_close(parents.float().mean(0), torch.tensor(PARENT_PROBABILITY), atol=0.006, rtol=0)


def test_a_child_is_active_only_with_its_parent_and_without_its_siblings(active: torch.Tensor) -> None:
    children, parents = active[:, N_PARENTS:], active[:, list(PARENT_OF)]
    assert not (children & ~parents).any()
    assert children.sum(-1).max() == 1
    given_parent = (children & parents).sum(0) / parents.sum(0)
    torch.testing.assert_close(given_parent, torch.full((len(PARENT_OF),), 0.2), atol=0.02, rtol=0)


def test_the_mean_number_of_features_is_the_papers(active: torch.Tensor) -> None:
    assert active.sum(-1).float().mean().item() == pytest.approx(EXPECTED_L0, abs=0.01)


def test_magnitudes_of_a_child_and_its_parent_are_independent() -> None:
    found = magnitudes(50_000, generator(1, TOKENS))
    both = found[(found[:, N_PARENTS] > 0)]
    parent, child = both[:, 0], both[:, N_PARENTS]
    assert child.mean().item() == pytest.approx(1.5, abs=0.02)
    assert child.std().item() == pytest.approx(0.25, abs=0.02)
    assert abs(torch.corrcoef(torch.stack([parent, child]))[0, 1].item()) < 0.06


@pytest.mark.parametrize(
    ("n", "correlation", "published"),
    [(3, 0.1, 0.0895), (3, 0.2, 0.163), (3, 0.8, 0.482), (11, 0.1, 0.3), (11, 0.2, 0.44), (11, 0.8, 0.7739)],
)
def test_mixing_is_the_papers_table(n: int, correlation: float, published: float) -> None:
    assert mixing(correlation, n) == pytest.approx(published, abs=1e-3)


@given(n=st.integers(2, 20), correlation=st.floats(0, 0.95))
def test_siblings_have_the_cosine_asked_for(n: int, correlation: float) -> None:
    rows = siblings(torch.eye(n, dtype=torch.float64), mixing(correlation, n))
    cosines = (rows @ rows.T)[~torch.eye(n, dtype=torch.bool)]
    torch.testing.assert_close(cosines, torch.full_like(cosines, correlation), atol=1e-9, rtol=0)


def test_only_siblings_are_correlated() -> None:
    found = directions(0.1, generator(3, WORLD))
    truth = torch.eye(N_FEATURES)
    truth[:N_PARENTS, :N_PARENTS] = 0.1
    for first in range(N_PARENTS, N_FEATURES, CHILDREN):
        truth[first : first + CHILDREN, first : first + CHILDREN] = 0.1
    torch.testing.assert_close(found @ found.T, truth.fill_diagonal_(1), atol=1e-5, rtol=0)


def test_a_seed_has_the_same_world_and_tokens_whoever_is_beside_it() -> None:
    together, alone = HierarchyWorlds((0, 5), 0.1, 30), HierarchyWorlds((5,), 0.1, 30)
    assert torch.equal(together.directions[1], alone.directions[0])
    for step in (0, 70, 3):  # in any order: a batch is a function of the step
        torch.testing.assert_close(together.batch(step)[1], alone.batch(step)[0])


def test_no_two_batches_or_seeds_share_tokens() -> None:
    worlds = HierarchyWorlds((0, 1), 0.0, 20)
    heldout = worlds.heldout(20)[0]
    rows = torch.cat([worlds.batch(0), worlds.batch(1), worlds.batch(64), heldout], dim=1).flatten(0, 1)
    assert len(rows.unique(dim=0)) == len(rows)
    assert heldout.square().sum(-1).mean().sqrt().item() == pytest.approx(RMS_NORM, rel=0.1)
