"""MMInference: grids, and lines that change where text meets image (Li et al. 2025, arXiv 2504.16083)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor

from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import LineMask, Mask, StreamedMask
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.minference import recall_on, spaced_runs
from sparse_rep.attention.methods.parts.budget import checked_budget, largest_each
from sparse_rep.attention.methods.parts.last_queries import LineMass, last_query_mass
from sparse_rep.attention.methods.parts.lines import line_pairs, rank_lines
from sparse_rep.attention.methods.parts.modalities import lines_between, mass_between
from sparse_rep.config_base import Config


class MMInferenceConfig(Config):
    """Settings of the official code (MInference's `mminference`, MIT) where it has one value."""

    strides: tuple[int, ...] = Field(default=(8, 16, 32, 64, 128), min_length=1)
    """Strides a grid may have. The code takes a frame's number of tokens, which a caller knows better."""
    last: int = Field(default=64, ge=1)
    """Queries at the end, of all and of each kind of position, that vote."""
    local: int = Field(default=1024, ge=1)
    """Last keys before a query that a grid keeps as well."""
    verticals: int = Field(default=1000, ge=1)
    """Columns kept a kind."""
    slashes: int = Field(default=1024, ge=1)
    """Diagonals kept a kind."""
    first: int = Field(default=30, ge=0)
    """Leading columns kept whatever their mass."""
    nearest: int = Field(default=100, ge=0)
    """Nearest diagonals kept whatever their mass."""
    judges: int = Field(default=128, ge=1)
    """Queries of the last half that judge, in eight evenly spaced runs."""


@final
@dataclass(frozen=True)
class MMInference(Method):
    """For every head the pattern of highest recall: grid, lines by the query's kind, or lines by both kinds.

    Grid: columns (or diagonals) of one phase at one stride, and a local window. Q-boundary: vertical-slash lines of each kind of
    query, from the last queries of that kind. 2D-boundary: lines of each (query kind, key kind), so that a column of one is no
    column of the other. Lines stay in the text's own positions, where the official kernel permutes positions by kind first; the
    kept pairs are the same. Each kind of query meets the budget by itself.
    """

    name: ClassVar[str] = "mminference"
    config: MMInferenceConfig = field(default_factory=MMInferenceConfig)

    def applies(self, context: Context) -> Applies:
        if not context.causal:
            return Applies("n/a", "defined for causal attention; this layer is bidirectional")
        if context.labels is None or len(context.labels.unique()) < 2:
            return Applies("n/a", "wants modality labels: positions of at least two kinds")
        return Applies("prefill")

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        c, n = self.config, attention.n
        grids, strides = self._grids(attention, budget)
        masks: dict[str, Mask] = {"grid": grids}
        masks |= {
            "q_boundary": self._bounded(attention, budget, False),
            "2d_boundary": self._bounded(attention, budget, True),
        }
        runs = spaced_runs(n // 2, n, c.judges)
        recall = recall_on(list(masks.values()), attention, runs)
        names = list(masks)
        chosen = [names[i] for i in recall.argmax(0).tolist()]

        def keep(head: int, lo: int, hi: int) -> Bool[Tensor, "r n"]:
            return masks[chosen[head]].rows(head, lo, hi)

        notes = {
            "chosen": chosen,
            "grid": strides,
            "recall": {name: row.tolist() for name, row in zip(names, recall, strict=True)},
        }
        read = (c.last * 3 + c.judges) * n / attention.context.visible_pairs
        return Estimate(StreamedMask(attention.n_heads, n, keep), pairs_read=read, notes=notes)

    def _grids(self, attention: LayerAttention, budget: float | None) -> tuple[LineMask, list[str]]:
        """For every head the stride, phase and direction whose lines hold most mass beyond what as many lines hold on average."""
        mass = last_query_mass(attention, self.config.last)
        context, n, lines, names = attention.context, attention.n, [], []
        for head in range(context.n_heads):
            best = max(
                (g for stride in self.config.strides for g in _phases(mass, head, stride, n)), key=lambda g: g.excess
            )
            lines.append(best.lines(n, attention.device))
            names.append(f"{best.direction} {best.phase} mod {best.stride}")
        columns, offsets = (torch.stack(kind) for kind in zip(*lines, strict=True))
        near = torch.arange(n, device=attention.device)
        if budget is None:
            return LineMask(columns, offsets | (near < self.config.local)), names
        # Within a budget the window gives way first, and then the grid, farthest lines first.
        limit = budget * context.visible_pairs

        def cut(most: Int[Tensor, " h"], window: Int[Tensor, " h"]) -> LineMask:
            some = (columns | offsets).cumsum(1) <= most[:, None]
            return LineMask(columns & some, (offsets & some) | (near < window[:, None]))

        one = torch.ones(context.n_heads, dtype=torch.long, device=attention.device)
        most = largest_each(lambda m: line_pairs(cut(m, one), context.window), limit, 0, n, columns)
        window = largest_each(lambda w: line_pairs(cut(most, w), context.window), limit, 1, n, columns)
        return cut(most, window), names

    def _bounded(self, attention: LayerAttention, budget: float | None, by_key: bool) -> StreamedMask:
        """Lines of every kind of query, and of every kind of key where asked, as one mask."""
        assert attention.labels is not None
        labels, n = attention.labels.to(attention.device), attention.n
        kinds = labels.unique().tolist()
        lines = {
            kind: self._lines_of_kind(attention, labels, kind, kinds if by_key else [None], budget) for kind in kinds
        }

        def keep(head: int, lo: int, hi: int) -> Bool[Tensor, "r n"]:
            rows = torch.zeros((hi - lo, n), dtype=torch.bool, device=labels.device)
            for kind in kinds:
                mine = labels[lo:hi] == kind
                for key_kind, mask in lines[kind].items():
                    kept = mask.rows(head, lo, hi)[mine]
                    rows[mine] |= kept if key_kind is None else kept & (labels == key_kind)
            return rows

        return StreamedMask(attention.n_heads, n, keep)

    def _lines_of_kind(
        self,
        attention: LayerAttention,
        labels: Tensor,
        kind: int,
        key_kinds: Sequence[int | None],
        budget: float | None,
    ) -> dict[int | None, LineMask]:
        c, chosen = self.config, {}
        queries = labels == kind
        for key_kind in key_kinds:
            keys = torch.ones_like(queries) if key_kind is None else labels == key_kind
            voters = queries.nonzero()[:, 0][-c.last :]
            ranked = rank_lines(mass_between(attention, voters, keys), c.first, c.nearest)
            if budget is None:
                chosen[key_kind] = ranked.best(c.verticals, c.slashes)
            else:
                chosen[key_kind] = lines_between(ranked, queries, keys, budget, c.verticals, c.slashes)
        return chosen


class _Grid(NamedTuple):
    direction: str
    stride: int
    phase: int
    excess: float

    def lines(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        on = torch.arange(n, device=device) % self.stride == self.phase
        none = torch.zeros_like(on)
        return (on, none) if self.direction == "columns" else (none, on)


def _phases(mass: LineMass, head: int, stride: int, n: int) -> list[_Grid]:
    """The heaviest phase of each direction at one stride."""
    grids = []
    for direction, line in zip(("columns", "diagonals"), mass, strict=True):
        wide = F.pad(line[head], (0, -n % stride)).view(-1, stride).sum(0)
        phase = int(wide.argmax())
        share = wide[phase] / wide.sum()
        grids.append(_Grid(direction, stride, phase, (share - 1 / stride).item()))
    return grids
