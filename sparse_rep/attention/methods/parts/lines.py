"""Columns and diagonals ranked by mass, and as many of them as a budget allows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparse_rep.attention.layer import Context
from sparse_rep.attention.masks import LineMask
from sparse_rep.attention.methods.parts.budget import largest_each
from sparse_rep.attention.methods.parts.last_queries import LineMass


class RankedLines(NamedTuple):
    """Place of every column and diagonal among its kind, 0 first."""

    columns: Int[Tensor, "h n"]
    offsets: Int[Tensor, "h n"]

    def best(self, n_columns: Int[Tensor, " h"], n_offsets: Int[Tensor, " h"]) -> LineMask:
        """The first so many of each kind, a head each."""
        return LineMask(self.columns < n_columns[:, None], self.offsets < n_offsets[:, None])

    def within(
        self, context: Context, budget: float, columns: int | Int[Tensor, " h"], offsets: int | Int[Tensor, " h"]
    ) -> LineMask:
        """As many lines as a share of the visible pairs allows, columns to diagonals in the proportion given."""
        n, share = context.n, columns / (columns + offsets)

        def counts(lines: Tensor) -> tuple[Tensor, Tensor]:
            # A diagonal costs more than a column, so an odd line is a column's; past n, the other kind takes the rest.
            wanted = (lines * share).ceil()
            spilled = torch.maximum((lines - wanted) - n, torch.zeros_like(wanted))
            of_columns = (wanted + spilled).clamp(max=n)
            return of_columns, (lines - of_columns).clamp(max=n)

        lines = largest_each(
            lambda m: line_pairs(self.best(*counts(m)), context.window),
            budget * context.visible_pairs,
            1,
            2 * n,
            self.columns,
        )
        return self.best(*counts(lines))


def rank_lines(mass: LineMass, first_columns: int, nearest: int) -> RankedLines:
    """By mass, after the first columns and the nearest diagonals, which always come first and in order."""
    return RankedLines(ranks(mass.columns, first_columns), ranks(mass.offsets, nearest))


def ranks(score: Float[Tensor, "h n"], first: int) -> Int[Tensor, "h n"]:
    """Place of each entry from the highest score down, the leading `first` entries before all others; ties to the lower index."""
    first = min(first, score.shape[1])
    order = score[:, first:].argsort(dim=-1, descending=True, stable=True) + first
    lead = torch.arange(first, device=score.device).expand(len(score), first)
    order = torch.cat([lead, order], 1)
    place = torch.arange(score.shape[1], device=score.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)


def line_pairs(mask: LineMask, window: int | None = None) -> Float[Tensor, " h"]:
    """Causal pairs (inside a window) on any kept column or diagonal, each query's own key among them; exact."""
    n = mask.n
    offsets: Bool[Tensor, "h n"] = mask.offsets.clone()
    offsets[:, 0] = True
    if window is not None:
        offsets[:, window:] = False
    # Key j is met by queries at distance 0..n-1-j.
    reach = torch.arange(n, 0, -1, device=offsets.device)
    on_columns = (mask.columns * reach.clamp(max=window or n)).sum(1, dtype=torch.float64)
    on_offsets = (offsets * reach).sum(1, dtype=torch.float64)
    crossings = offsets.cumsum(1).gather(1, (reach - 1).expand_as(offsets))
    both = (mask.columns * crossings).sum(1, dtype=torch.float64)
    return on_columns + on_offsets - both
