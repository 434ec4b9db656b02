"""Which simple pattern a head's attention has: the one that keeps most mass at an equal number of pairs.

MInference (Jiang et al. 2024, arXiv 2407.02490) chooses among shapes by recall at one budget; here each shape is the best of
its kind, chosen from the exact sums of the text itself, so that a class says what the head is and not how well a method
guesses.

    local        the nearest keys                           sink_local  4 first keys, and the nearest
    columns      the keys of most mass, for all queries     diagonals   the distances of most mass, for all queries
    blocks       the blocks of most mass
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_rep.attention.dense import Dense
from sparse_rep.kernels.attention import LineMass

PATTERNS = ("local", "sink_local", "columns", "diagonals", "blocks")
"""From the simplest on."""
CONTAINED = {
    "local": ("sink_local", "diagonals"),
    "sink_local": (),
    "columns": (),
    "diagonals": ("local",),
    "blocks": (),
}
"""Patterns whose masks contain a pattern's own, or are contained in them: no rivals."""
TIE = 0.01
"""Recall by which a simpler pattern may lie behind."""
DIFFUSE = 0.5
"""A head of which no pattern keeps this much of the mass is diffuse."""


def pattern_recalls(dense: Dense, lines: LineMass, budget: float) -> dict[str, Float[Tensor, " h"]]:
    """Recall of the best mask of each pattern that keeps at most `budget` of the visible pairs."""
    layer = dense.layer
    pairs = budget * layer.context.visible_pairs
    n, device = layer.n, layer.device
    # Queries that key j serves, and queries that have a key at distance o: what a column and a diagonal cost.
    span = layer.window or n
    column_cost = torch.minimum(torch.full((n,), span, device=device), n - torch.arange(n, device=device)).double()
    diagonal_cost = (n - torch.arange(n, device=device)).double()
    diagonal_cost[span:] = 0
    nearest = (diagonal_cost.cumsum(0) <= pairs).double()
    nearest[0] = 1
    first = torch.zeros(n, dtype=torch.float64, device=device)
    first[:4] = 1
    beside = (diagonal_cost.cumsum(0) <= pairs - (column_cost * first).sum()).double()
    beside[0] = 1
    overlap = _sink_in_window(dense, int(beside.sum()))
    return {
        "local": lines.distances.double() @ nearest,
        "sink_local": lines.columns.double() @ first + lines.distances.double() @ beside - overlap,
        "columns": _cheapest(lines.columns, column_cost, pairs),
        "diagonals": _cheapest(lines.distances, diagonal_cost, pairs),
        "blocks": _blocks(dense, pairs),
    }


def classify(recalls: Float[Tensor, "p h"]) -> tuple[list[str], Float[Tensor, " h"], Float[Tensor, " h"]]:
    """Class, its recall and its margin, for recalls in the order of PATTERNS.

    The class is the simplest pattern within TIE of the best. The margin is over the best one that does not contain the class's
    own masks, so about 0 (or a little below) where a different pattern explains the head as well.
    """
    names, kept, margins = [], [], []
    for head in recalls.T.tolist():
        i = next(i for i, recall in enumerate(head) if recall >= max(head) - TIE)
        others = [
            r for name, r in zip(PATTERNS, head, strict=True) if name not in (PATTERNS[i], *CONTAINED[PATTERNS[i]])
        ]
        names.append(PATTERNS[i] if head[i] >= DIFFUSE else "diffuse")
        kept.append(head[i])
        margins.append(head[i] - max(others))
    return names, torch.tensor(kept, dtype=torch.float64), torch.tensor(margins, dtype=torch.float64)


def _cheapest(mass: Float[Tensor, "h n"], cost: Float[Tensor, " n"], pairs: float) -> Float[Tensor, " h"]:
    """Mass of parts taken in order of mass per pair until the pairs are spent."""
    mass = mass.double()
    order = (mass / cost.clamp(min=1)).argsort(-1, descending=True)
    kept = cost[order].cumsum(-1) <= pairs
    return (mass.gather(-1, order) * kept).sum(-1)


def _sink_in_window(dense: Dense, width: int) -> Float[Tensor, " h"]:
    """Mass that a window of `width` and the first 4 keys both hold."""
    layer = dense.layer
    mass = dense.first_keys(4)
    back = torch.arange(layer.n, device=layer.device)[:, None] - torch.arange(mass.shape[-1], device=layer.device)
    return (mass * (back < width)).double().sum((1, 2)) / layer.n


def _blocks(dense: Dense, pairs: float) -> Float[Tensor, " h"]:
    """Blocks of 64, or of 128 on long texts, wherever they are."""
    context = dense.layer.context
    size = 64 if context.n <= 4096 else 128
    cost = dense.pairs(size)
    queries = (context.n - size * torch.arange(len(cost), device=cost.device)).clamp(max=size)
    mass = dense.map(size) * (queries / context.n)[:, None]
    visible = cost > 0
    return _cheapest(mass[:, visible], cost[visible], pairs)
