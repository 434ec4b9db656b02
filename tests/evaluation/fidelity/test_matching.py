"""Latents are matched to features by what they do."""

import pytest
import torch

from sparse_rep.evaluation.fidelity.matching import activation_correlation, assignment


def test_correlation_is_numpys_and_a_silent_latent_has_none() -> None:
    generator = torch.Generator().manual_seed(0)
    codes, truth = torch.rand(200, 4, generator=generator), torch.rand(200, 3, generator=generator)
    codes[:, 2] = 0
    found = activation_correlation(codes, truth)
    oracle = torch.corrcoef(torch.cat([truth, codes], dim=1).double().T)[:3, 3:]
    live = [0, 1, 3]
    torch.testing.assert_close(found[:, live], oracle[:, live])
    assert (found[:, 2] == 0).all()


def test_a_planted_permutation_is_found_among_more_latents() -> None:
    truth = torch.rand(300, 5, generator=torch.Generator().manual_seed(1))
    noise = torch.rand(300, 3, generator=torch.Generator().manual_seed(2))
    codes = torch.cat([noise, truth[:, [4, 2, 0, 1, 3]]], dim=1)
    assert assignment(activation_correlation(codes, truth)).tolist() == [5, 6, 4, 7, 3]


def test_the_sum_counts_not_the_first_come() -> None:
    """Feature 0 would take latent 0, but then feature 1 is left with nothing: 0.9 + 0 against 0.8 + 0.7."""
    assert assignment(torch.tensor([[0.9, 0.8], [0.7, 0.0]])).tolist() == [1, 0]


def test_fewer_latents_than_features_is_refused() -> None:
    with pytest.raises(ValueError, match="widen the dictionary"):
        assignment(torch.zeros(3, 2))
