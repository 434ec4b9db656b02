"""Sparse codes: hand-worked cases, then the invariants that every consumer relies on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_rep.codes import EMPTY, SparseCodes


@st.composite
def padded_codes(draw: st.DrawFn) -> SparseCodes:
    n, k, m = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    indices = torch.randint(-1, m, (n, k), generator=generator)
    values = torch.randint(-3, 4, (n, k), generator=generator).float()
    return SparseCodes(torch.where(indices == EMPTY, 0, values), indices, m)


def test_coalesce_sums_an_atom_that_was_picked_twice() -> None:
    codes = SparseCodes(torch.tensor([[2.0, 1.0, 3.0]]), torch.tensor([[4, 1, 4]]), 5).coalesce()
    assert codes.indices.tolist() == [[1, 4, EMPTY]]
    assert codes.values.tolist() == [[1.0, 5.0, 0.0]]


def test_values_that_cancel_leave_an_empty_slot() -> None:
    codes = SparseCodes(torch.tensor([[2.0, -2.0]]), torch.tensor([[0, 0]]), 3).coalesce()
    assert codes.indices.tolist() == [[EMPTY, EMPTY]]
    assert codes.l0().tolist() == [0.0]


def test_mismatched_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="both be"):
        SparseCodes(torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.long), 4)


@given(padded_codes())
@settings(max_examples=60, deadline=None)
def test_every_form_means_the_same_matrix(codes: SparseCodes) -> None:
    dense = codes.dense()
    assert torch.equal(codes.coalesce().dense(), dense)
    assert torch.equal(codes.to_csr().to_padded().dense(), dense)
    assert torch.equal(SparseCodes.from_dense(dense).dense(), dense)
    assert torch.equal(codes.l0(), (dense != 0).sum(-1).float())


@given(padded_codes())
@settings(max_examples=60, deadline=None)
def test_coalesced_rows_name_each_unit_once_in_order(codes: SparseCodes) -> None:
    merged = codes.coalesce()
    for row in merged.indices.tolist():
        named = [u for u in row if u != EMPTY]
        assert named == sorted(set(named))
        assert row == named + [EMPTY] * (len(row) - len(named))
