"""Codes from loose entries: what threshold encoding gives becomes `SparseCodes`."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.codes import CSRCodes, SparseCodes


def codes_of(
    rows: Int[Tensor, " nnz"], latents: Int[Tensor, " nnz"], values: Float[Tensor, " nnz"], n: int, n_units: int
) -> SparseCodes:
    """Padded codes of entries sorted by row."""
    counts = rows.new_zeros(n + 1).index_add_(0, rows + 1, rows.new_ones(()).expand(len(rows)))
    return CSRCodes(counts.cumsum(0), latents, values, n_units).to_padded()
