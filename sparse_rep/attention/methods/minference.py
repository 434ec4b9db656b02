"""MInference: for every head, once, the pattern that keeps most (Jiang et al. 2024, arXiv 2407.02490)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self, final

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import BlockMask, LineMask, Mask, UnionMask
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.methods.a_shape import AShape, AShapeConfig
from sparse_rep.attention.methods.block_sparse import BlockSparse, BlockSparseConfig
from sparse_rep.attention.methods.parts.budget import checked_budget
from sparse_rep.attention.methods.parts.last_queries import group_probabilities, last_query_mass
from sparse_rep.attention.methods.parts.lines import RankedLines, rank_lines
from sparse_rep.attention.methods.parts.scope import causal_prefill
from sparse_rep.config_base import Config


class Candidate(Config):
    """One pattern with its sizes."""

    pattern: Literal["a_shape", "vertical_slash", "block_sparse"]
    """Which method."""
    sizes: tuple[int, ...]
    """(sink, window), (verticals, slashes) or (top,)."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        wanted = 1 if self.pattern == "block_sparse" else 2
        if len(self.sizes) != wanted or min(self.sizes) < 1:
            raise ValueError(f"{self.pattern} takes {wanted} positive size{'s' * (wanted - 1)}, got {list(self.sizes)}")
        return self

    def label(self) -> str:
        return f"{self.pattern}({','.join(map(str, self.sizes))})"


class MInferenceConfig(Config):
    """The search space of the official code (microsoft/MInference, MIT)."""

    candidates: tuple[Candidate, ...] = Field(
        default=(
            Candidate(pattern="a_shape", sizes=(100, 800)),
            Candidate(pattern="vertical_slash", sizes=(30, 800)),
            Candidate(pattern="vertical_slash", sizes=(100, 750)),
            Candidate(pattern="vertical_slash", sizes=(500, 700)),
            Candidate(pattern="vertical_slash", sizes=(3500, 100)),
            Candidate(pattern="block_sparse", sizes=(100,)),
        ),
        min_length=1,
    )
    """Patterns to choose among; of equals the first."""
    last: int = Field(default=64, ge=1)
    """Queries at the end from which vertical-slash finds its lines."""
    first: int = Field(default=30, ge=0)
    """Leading columns that vertical-slash keeps whatever their mass."""
    nearest: int = Field(default=50, ge=0)
    """Nearest diagonals that vertical-slash keeps whatever their mass."""
    late: int = Field(default=2500, ge=0)
    """Queries from this one on judge; the last half of a text that is shorter than twice as long."""
    judges: int = Field(default=128, ge=1)
    """Late queries that judge, in eight evenly spaced runs. Ours: the code asks all of them, which takes n^2 memory."""


@final
@dataclass(frozen=True)
class MInference(Method):
    """The candidate with the highest recall on late queries, a head each.

    The authors choose on one calibration text and reuse the choice on all; here it is made on the text at hand, so that it is a
    bound on what a reused choice gives. A budget is given to every candidate, so that all compete at equal density.
    """

    name: ClassVar[str] = "minference"
    config: MInferenceConfig = field(default_factory=MInferenceConfig)

    def applies(self, context: Context) -> Applies:
        return causal_prefill(context)

    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        checked_budget(budget)
        c, n, context = self.config, attention.n, attention.context
        lines = rank_lines(last_query_mass(attention, c.last), c.first, c.nearest)
        masks = [self._mask(candidate, attention, lines, budget) for candidate in c.candidates]
        recall = recall_on(masks, attention, spaced_runs(c.late if n >= 2 * c.late else n // 2, n, c.judges))
        choice = recall.argmax(0)
        labels = [candidate.label() for candidate in c.candidates]
        notes = {
            "chosen": [labels[i] for i in choice.tolist()],
            "recall": {label: row.tolist() for label, row in zip(labels, recall, strict=True)},
        }
        read = (c.last + c.judges) * n / context.visible_pairs
        return Estimate(chosen_by_head(masks, choice), pairs_read=read, notes=notes)

    def _mask(self, candidate: Candidate, attention: LayerAttention, lines: RankedLines, budget: float | None) -> Mask:
        match candidate.pattern, candidate.sizes:
            case "a_shape", (sink, window):
                return AShape(AShapeConfig(sink=sink, window=window)).estimate(attention, budget).mask
            case "vertical_slash", (verticals, slashes):
                if budget is None:
                    return lines.best(verticals, slashes)
                return lines.within(attention.context, budget, verticals, slashes)
            case _, (top,):
                return BlockSparse(BlockSparseConfig(top=top)).estimate(attention, budget).mask
            case _:
                raise AssertionError("the config checks the number of sizes")


def chosen_by_head(masks: Sequence[Mask], choice: Int[Tensor, " h"]) -> Mask:
    """The mask in which every head has the one chosen for it."""
    parts: list[Mask] = []
    for i, mask in enumerate(masks):
        mine = choice == i
        if not mine.any():
            continue
        match mask:
            case LineMask():
                parts.append(LineMask(mask.columns & mine[:, None], mask.offsets & mine[:, None]))
            case BlockMask():
                parts.append(BlockMask(mask.keep & mine[:, None, None], mask.n, mask.q_block, mask.k_block))
            case _:
                raise AssertionError(f"no candidate has a {type(mask).__name__}")
    lines = [part for part in parts if isinstance(part, LineMask)]
    parts = [part for part in parts if not isinstance(part, LineMask)]
    if lines:
        columns, offsets = (
            torch.stack(kind).any(0) for kind in zip(*((x.columns, x.offsets) for x in lines), strict=True)
        )
        parts.append(LineMask(columns, offsets))
    return parts[0] if len(parts) == 1 else UnionMask(tuple(parts))


def spaced_runs(start: int, stop: int, rows: int, runs: int = 8) -> list[tuple[int, int]]:
    """Evenly spaced runs [lo, hi) that hold about so many rows of start..stop-1 together; all of them where there are no more."""
    if stop - start <= rows:
        return [(start, stop)]
    size = -(-rows // runs)
    return [(int(lo), int(lo) + size) for lo in torch.linspace(start, stop - size, runs)]


def recall_on(masks: Sequence[Mask], attention: LayerAttention, runs: list[tuple[int, int]]) -> Float[Tensor, "m h"]:
    """Mean share of the attention of the runs' queries that each mask keeps, their own keys always kept."""
    recall = torch.zeros((len(masks), attention.n_heads), device=attention.device)
    for lo, hi in runs:
        own = torch.arange(lo, hi, device=attention.device)
        for kv in range(attention.context.n_kv_heads):
            p = group_probabilities(attention, kv, lo, hi)
            p = p / p.sum(-1, keepdim=True)
            for m, head in enumerate(range(kv * len(p), (kv + 1) * len(p))):
                for i, mask in enumerate(masks):
                    kept = mask.rows(head, lo, hi)
                    kept[own - lo, own] = True
                    recall[i, head] += (p[m] * kept).sum()
    return recall / sum(hi - lo for lo, hi in runs)
