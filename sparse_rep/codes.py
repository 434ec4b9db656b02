"""`SparseCodes`: which few units each token used, and how much.

SAE latents, the experts a router chose and the heads ranked by what they write are all this one type.

Letters in shapes, here and everywhere:
    n  tokens (rows)          d  model width            m  latents, atoms or units
    k  active units a token   nnz  stored codes in all  b  batch   t  positions
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

EMPTY = -1
"""Index of an unused slot in the padded form; its value is 0."""


@dataclass(frozen=True)
class SparseCodes:
    """Padded sparse codes: `values (n, k)` and `indices (n, k)` into `n_units` units.

    An empty slot has index -1 and value 0. Slots have no promised order and matching pursuit may name a unit twice in a
    row; `coalesce()` gives each unit once. Use `to_csr()` for coders whose number of active units varies widely.
    """

    values: Float[Tensor, "n k"]
    indices: Int[Tensor, "n k"]
    n_units: int

    def __post_init__(self) -> None:
        if self.values.shape != self.indices.shape or self.values.ndim != 2:
            raise ValueError(
                f"values {tuple(self.values.shape)} and indices {tuple(self.indices.shape)} must both be (n, k)"
            )

    @property
    def n(self) -> int:
        return self.values.shape[0]

    @property
    def active(self) -> Tensor:
        """Boolean (n, k): slots that hold a unit with a non-zero value."""
        return (self.indices != EMPTY) & (self.values != 0)

    def l0(self) -> Float[Tensor, " n"]:
        """Active units a token. Units named twice count once; see `coalesce`."""
        return self.coalesce().active.sum(-1).to(torch.float32)

    def coalesce(self) -> SparseCodes:
        """Sum repeated units, drop zeros, sort each row by index with empty slots last."""
        if self.indices.numel() == 0:
            return self
        parked = torch.where(self.active, self.indices.long(), self.n_units)
        order = parked.argsort(dim=-1, stable=True)
        units = parked.gather(-1, order)
        values = torch.where(self.active, self.values, 0).gather(-1, order)
        first = torch.ones_like(units, dtype=torch.bool)
        first[:, 1:] = units[:, 1:] != units[:, :-1]
        slot = first.cumsum(-1) - 1
        summed = torch.zeros_like(values).scatter_add(-1, slot, values)
        merged = torch.full_like(units, self.n_units).scatter_reduce(-1, slot, units, "amin")
        merged = torch.where(summed != 0, merged, self.n_units)
        merged, last = merged.sort(dim=-1)  # units whose values cancelled join the empty slots at the end
        summed, keep = summed.gather(-1, last), merged < self.n_units
        indices = torch.where(keep, merged, EMPTY).to(self.indices.dtype)
        return SparseCodes(torch.where(keep, summed, 0), indices, self.n_units)

    def dense(self) -> Float[Tensor, "n m"]:
        """The (n, n_units) matrix. For tests and small inputs only: hot paths never build it."""
        parked = torch.where(self.active, self.indices.long(), self.n_units)
        out = self.values.new_zeros(self.n, self.n_units + 1)
        return out.scatter_add(1, parked, torch.where(self.active, self.values, 0))[:, : self.n_units]

    def to_csr(self) -> CSRCodes:
        """Compressed rows, duplicates summed and zeros dropped."""
        merged = self.coalesce()
        active = merged.active
        offsets = torch.zeros(self.n + 1, dtype=torch.int64, device=self.values.device)
        offsets[1:] = active.sum(-1).cumsum(0)
        return CSRCodes(offsets, merged.indices[active], merged.values[active], self.n_units)

    def rows(self, select: Tensor | slice) -> SparseCodes:
        """The codes of the chosen tokens."""
        return SparseCodes(self.values[select], self.indices[select], self.n_units)

    def to(self, device: torch.device | str) -> SparseCodes:
        return SparseCodes(self.values.to(device), self.indices.to(device), self.n_units)

    @staticmethod
    def from_dense(matrix: Float[Tensor, "n m"]) -> SparseCodes:
        """Every non-zero of a dense matrix, padded to the widest row."""
        width = max(int((matrix != 0).sum(-1).max()), 1) if matrix.numel() else 1
        order = (matrix == 0).to(torch.uint8).argsort(dim=-1, stable=True)[:, :width]
        values = matrix.gather(-1, order)
        return SparseCodes(values, torch.where(values != 0, order, EMPTY), matrix.shape[1])


@dataclass(frozen=True)
class CSRCodes:
    """Compressed rows: row i owns `indices[row_offsets[i]:row_offsets[i+1]]`. For coders whose L0 varies."""

    row_offsets: Int[Tensor, " n_plus_1"]
    indices: Int[Tensor, " nnz"]
    values: Float[Tensor, " nnz"]
    n_units: int

    @property
    def n(self) -> int:
        return self.row_offsets.numel() - 1

    def rows(self) -> Int[Tensor, " nnz"]:
        """The row of each stored code."""
        return torch.repeat_interleave(
            torch.arange(self.n, device=self.row_offsets.device), self.row_offsets.diff(), output_size=len(self.indices)
        )

    def to_padded(self) -> SparseCodes:
        counts = self.row_offsets.diff()
        width = max(int(counts.max()), 1) if self.n else 1
        rows = self.rows()
        slot = torch.arange(len(self.indices), device=rows.device) - self.row_offsets[rows]
        values = self.values.new_zeros(self.n, width)
        indices = torch.full((self.n, width), EMPTY, dtype=self.indices.dtype, device=self.indices.device)
        values[rows, slot] = self.values
        indices[rows, slot] = self.indices
        return SparseCodes(values, indices, self.n_units)
