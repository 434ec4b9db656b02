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
    """Place of every column and diagonal among its kind by mass, 0 first, and how many are kept whatever their mass."""

    columns: Int[Tensor, "h n"]
    offsets: Int[Tensor, "h n"]
    first: int = 0
    """Leading columns."""
    nearest: int = 0
    """Nearest diagonals."""

    def best(self, n_columns: int | Int[Tensor, " h"], n_offsets: int | Int[Tensor, " h"]) -> LineMask:
        """So many of each kind, a head each: those always kept, then by mass."""
        return LineMask(_best(self.columns, self.first, n_columns), _best(self.offsets, self.nearest, n_offsets))

    def scaled(self, n_columns: Tensor, n_offsets: Tensor, columns: int | Tensor, offsets: int | Tensor) -> LineMask:
        """So many of each kind by mass, and of those always kept the share that belongs to so many.

        A setting that always keeps 64 diagonals of 512 would leave nothing to choose where a budget allows 50.
        """
        at = torch.arange(self.columns.shape[1], device=self.columns.device)
        kept = []
        for rank, number, lead, whole in (
            (self.columns, n_columns, self.first, columns),
            (self.offsets, n_offsets, self.nearest, offsets),
        ):
            always = (number * lead / whole).ceil()
            kept.append((rank < number[:, None]) | (at < always[:, None]))
        return LineMask(*kept)

    def within(
        self, context: Context, budget: float, columns: int | Int[Tensor, " h"], offsets: int | Int[Tensor, " h"]
    ) -> LineMask:
        """As many lines as a share of the visible pairs allows, in the proportions of a setting of so many of each kind."""

        def chosen(lines: Int[Tensor, " h"]) -> LineMask:
            return self.scaled(*split(lines, columns / (columns + offsets), context.n), columns, offsets)

        limit = budget * context.visible_pairs
        return chosen(
            largest_each(lambda m: line_pairs(chosen(m), context.window), limit, 1, 2 * context.n, self.columns)
        )


def rank_lines(mass: LineMass, first: int, nearest: int) -> RankedLines:
    """By mass; the first columns and the nearest diagonals are kept whatever theirs."""
    n = mass.columns.shape[1]
    return RankedLines(ranks(mass.columns), ranks(mass.offsets), min(first, n), min(nearest, n))


def split(lines: Int[Tensor, " h"], share: float | Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Numbers of columns and diagonals, `share` of them columns; past n of one kind the other takes the rest."""
    wanted = (lines * share).ceil()
    of_columns = (wanted + ((lines - wanted) - n).clamp(min=0)).clamp(max=n)
    return of_columns, (lines - of_columns).clamp(max=n)


def _best(rank: Int[Tensor, "h n"], lead: int, number: int | Int[Tensor, " h"]) -> Bool[Tensor, "h n"]:
    number = torch.as_tensor(number, device=rank.device).reshape(-1, 1)
    at = torch.arange(rank.shape[1], device=rank.device)
    before = torch.searchsorted(rank[:, :lead].sort(1).values, rank) if lead else torch.zeros_like(rank)
    return torch.where(at < lead, at, rank - before + lead) < number


def ranks(score: Float[Tensor, "h n"]) -> Int[Tensor, "h n"]:
    """Place of each entry from the highest score down; ties to the lower index."""
    order = score.argsort(dim=-1, descending=True, stable=True)
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
