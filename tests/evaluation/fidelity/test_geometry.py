"""Babel, effective rank and stability on dictionaries worked by hand."""

import math

import pytest
import torch

from sparse_rep.codes import SparseCodes
from sparse_rep.evaluation.fidelity import geometry


def test_orthonormal_atoms_do_not_overlap_and_equal_ones_do_entirely() -> None:
    assert geometry.babel(torch.eye(4), [1, 3]) == pytest.approx([0, 0])
    assert geometry.babel(torch.ones(4, 7), [1, 2, 3]) == pytest.approx([1, 2, 3])


def test_babel_takes_the_worst_atom_and_its_largest_overlaps_whatever_their_sign() -> None:
    """Atoms at 0, 60 and 180 degrees: |cosines| are 1/2, 1/2 and 1."""
    angle = torch.tensor([0.0, math.pi / 3, math.pi])
    atoms = torch.stack([angle.cos(), angle.sin()], dim=-1) * torch.tensor([[1.0], [5.0], [2.0]])
    assert geometry.babel(atoms, [1, 2]) == pytest.approx([1, 1.5])


def test_babel_of_more_atoms_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="needs more than 4 atoms"):
        geometry.babel(torch.eye(4), [4])


def test_coactive_overlap_is_of_atoms_used_together_only() -> None:
    atoms = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    apart = SparseCodes(torch.ones(2, 2), torch.tensor([[0, 1], [2, 1]]), 3)
    together = SparseCodes(torch.ones(2, 2), torch.tensor([[0, 2], [1, -1]]), 3)
    assert geometry.coactive_babel(atoms, apart) == pytest.approx(0)
    assert geometry.coactive_babel(atoms, together) == pytest.approx(1), "the second token uses one atom: left out"
    assert math.isnan(geometry.coactive_babel(atoms, SparseCodes(torch.zeros(2, 1), torch.full((2, 1), -1), 3)))


def test_effective_rank_is_one_for_one_direction_and_m_for_equal_ones() -> None:
    one = SparseCodes(torch.rand(50, 1), torch.zeros(50, 1, dtype=torch.int64), 6)
    every = SparseCodes(torch.ones(60, 1), torch.arange(60)[:, None] % 6, 6)
    assert geometry.effective_rank(one) == pytest.approx(1)
    assert geometry.effective_rank(every) == pytest.approx(6)


def test_effective_rank_of_a_worked_spectrum() -> None:
    """Squared norms 3 and 1: exp of the entropy of (3/4, 1/4)."""
    codes = SparseCodes(torch.ones(4, 1), torch.tensor([[0], [0], [0], [1]]), 2)
    assert geometry.effective_rank(codes) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_stability_is_one_for_a_shuffled_copy_and_low_for_an_unrelated_dictionary() -> None:
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randn(40, 256, generator=generator)
    assert geometry.stability(atoms, 2 * atoms[torch.randperm(40, generator=generator)]) == pytest.approx(1)
    assert geometry.stability(atoms, torch.randn(40, 256, generator=generator)) < 0.2


def test_near_duplicates_counts_pairs() -> None:
    atoms = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [-1.0, 0.0]])
    assert geometry.near_duplicates(atoms) == 3
