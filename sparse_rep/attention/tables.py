"""From profiles and scores to rows of the store's tables."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.attention.dense import Dense
from sparse_rep.attention.heads import HeadProfile
from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.method import Applies, Estimate, Method
from sparse_rep.attention.score import Scores
from sparse_rep.codes import SparseCodes

LINKED_KEYS = 8
"""Strongest keys kept of a query."""
WRITERS = 8
"""Heads kept a token, of those that write most."""

Columns = Mapping[str, list[Any]]


class HeadTables:
    """Rows gathered by table; `take` gives them and forgets."""

    def __init__(self) -> None:
        self._rows: defaultdict[str, defaultdict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))

    def take(self) -> dict[str, Columns]:
        taken, self._rows = self._rows, defaultdict(lambda: defaultdict(list))
        return {name: dict(columns) for name, columns in taken.items()}

    def add(self, table: str, n: int, columns: Mapping[str, Any]) -> None:
        """n rows; a value that is no list or tensor is the same in each."""
        for name, value in columns.items():
            if isinstance(value, Tensor):
                value = value.tolist()
            self._rows[table][name] += value if isinstance(value, list) else [value] * n

    def add_profile(self, layer: LayerAttention, tok_lo: int, profile: HeadProfile, class_budget: float) -> None:
        place = _place(layer, tok_lo)
        h = layer.n_heads
        kv = [layer.kv_of(head) for head in range(h)]
        extra = {"kv_head": kv, "window": layer.window, "n_queries": profile.n_queries, "class_budget": class_budget}
        self.add("head_texts", h, {**place, **extra, **profile.columns()})
        edges = [0, *(2**i for i in range(profile.distances.shape[1]))]
        for lo, hi, mass in zip(edges, edges[1:], profile.distances.T, strict=False):
            self.add("head_distances", h, {**place, "lo": lo, "hi": min(hi, layer.n), "mass": mass})

    def add_scores(
        self,
        layer: LayerAttention,
        tok_lo: int,
        method: Method,
        budget: float | None,
        applies: Applies,
        found: tuple[Estimate, Scores] | None,
    ) -> None:
        """Scores of one method at one budget; where it does not apply, why."""
        h = layer.n_heads
        columns: dict[str, Any] = {f.name: None for f in fields(Scores)} | {
            "pairs_read": None,
            "first_row": None,
            "notes": None,
        }
        if found is not None:
            estimate, scores = found
            columns |= {f.name: getattr(scores, f.name) for f in fields(Scores)}
            columns |= {"pairs_read": estimate.pairs_read, "first_row": estimate.first_row}
            columns["notes"] = [_note(estimate.notes, head, h) for head in range(h)]
        said = {
            "method": method.name,
            "config": method.config.model_dump_json(),
            "budget": budget,
            "applies": applies.phase,
            "reason": applies.reason or None,
        }
        self.add("head_method_texts", h, {**_place(layer, tok_lo), **said, **columns})

    def add_map(self, dense: Dense, tok_lo: int, block: int) -> None:
        layer = dense.layer
        for head, mass in enumerate(dense.map(block).float().cpu()):
            b = len(mass)
            rows = [mass[i, : i + 1].tolist() for i in range(b)]
            place = {**_place(layer, tok_lo), "head": head}
            self.add("head_maps", b, {**place, "block": block, "q_block": list(range(b)), "mass": rows})

    def add_links(self, dense: Dense, tok_lo: int, bos: int, count: int) -> None:
        """Strongest keys of `count` queries spread over the text, of each head. `bos` is 1 where position 0 is BOS, else 0."""
        layer = dense.layer
        queries = torch.linspace(bos, layer.n - 1, min(count, layer.n - bos)).round().long().unique().to(layer.device)
        for head in range(layer.n_heads):
            mass, keys = dense.rows(head, queries).topk(min(LINKED_KEYS, layer.n), -1)
            for query, row, key in zip(queries.tolist(), mass.tolist(), keys.tolist(), strict=True):
                linked = [(k, m) for k, m in zip(key, row, strict=True) if m > 0]
                columns = {
                    "head": head,
                    "tok": tok_lo + query - bos,
                    "rank": list(range(1, len(linked) + 1)),
                    "key_tok": [tok_lo + k - bos if k >= bos else None for k, _ in linked],
                    "mass": [m for _, m in linked],
                }
                self.add("head_links", len(linked), {**_place(layer, tok_lo), **columns})

    def add_writes(self, codes: SparseCodes, tok: Int[Tensor, " n"]) -> None:
        n, k = codes.values.shape
        order = codes.values.argsort(-1, descending=True)
        rows = {"tok": tok.repeat_interleave(k), "rank": torch.arange(1, k + 1).repeat(n)}
        units, norms = codes.indices.gather(-1, order).flatten(), codes.values.gather(-1, order).flatten()
        self.add("head_writes", n * k, {**rows, "unit": units, "norm": norms})


def head_codes(writes: Float[Tensor, "heads n"], k: int = WRITERS) -> SparseCodes:
    """Heads as sparse codes: of each token the k heads, of all layers, that write most to the residual stream.

    `writes` holds norms, all heads of layer 0 first; a unit is layer * heads a layer + head.
    """
    values, units = writes.T.topk(min(k, len(writes)), -1)
    return SparseCodes(values, units, len(writes))


def _place(layer: LayerAttention, tok_lo: int) -> dict[str, Any]:
    heads = list(range(layer.n_heads))
    return {"layer": layer.layer, "head": heads, "length": layer.n, "tok_lo": tok_lo}


def _note(notes: Mapping[str, Any], head: int, n_heads: int) -> str | None:
    """What a method noted of one head: of a list with an entry a head, its own."""
    own = {k: v[head] if isinstance(v, list | tuple) and len(v) == n_heads else v for k, v in notes.items()}
    return json.dumps(own, default=str) if own else None
