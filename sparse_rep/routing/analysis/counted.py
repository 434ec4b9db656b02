"""One run's routing as arrays: the answers of `store/sql/queries/routing.sql` for one layer at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_rep.errors import DataError
from sparse_rep.routing.analysis.intervals import GROUPS, Counts
from sparse_rep.store import Store

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Router:
    """A row of `routers`."""

    layer: int
    n_experts: int
    k: int
    z_loss: float
    entropy: float


@dataclass(frozen=True)
class Documents:
    """Counts by document of one layer: the root of load, importance and domain specialisation."""

    group: Ints
    """(docs)"""
    domain: Ints
    """(docs), index into `domains`"""
    domains: list[str]
    n_tokens: Counts
    """(docs)"""
    n: Counts
    """(docs, e): tokens that chose the expert"""
    n_first: Counts
    """(docs, e): tokens whose first choice it was"""
    weight: Counts
    """(docs, e): summed routing weight"""

    def grouped(self, by_document: Counts) -> Counts:
        """Sums (g, ...) over the groups of documents."""
        out = np.zeros((GROUPS, *by_document.shape[1:]))
        np.add.at(out, self.group, by_document)
        return out


@dataclass(frozen=True)
class Choices:
    """Choices token by token, in corpus order, of a sample of documents."""

    doc: Ints
    """(n)"""
    expert: Ints
    """(n, k): expert ids, -1 where a token has fewer"""
    ids: dict[str, Ints]
    """(n) token ids by side (input, next, predicted), -1 where there is none; a side that nobody recorded is absent"""
    tok: Ints
    """(n)"""


class Routed:
    """Asks about one run."""

    def __init__(self, store: Store, run_id: str, *, max_tokens: int) -> None:
        manifest = store.manifest(run_id)
        if manifest.corpus_id is None:
            raise DataError(f"run {run_id} names no corpus: routing is analysed by document, so give it one")
        self._store, self.run_id, self.corpus_id = store, run_id, manifest.corpus_id
        rows = store.query("routing.routers", run=run_id).to_pylist()
        self.routers = [
            Router(r["layer"], r["n_experts"], r["k"], _number(r["z_loss"]), _number(r["entropy"])) for r in rows
        ]
        if not self.routers:
            raise DataError(f"run {run_id} holds no routers: write the tables routes, routers and experts first")
        most = max((r["n_tokens"] or 0 for r in rows), default=0)
        self.stride = max(1, -(-most // max_tokens))
        """Every stride-th document is counted."""

    def ask(self, name: str, **params: Any) -> dict[str, NDArray[Any]]:
        """Columns of a named query about this run, integers as int64 and NULL as -1 (NaN among floats)."""
        return self._columns(name, run=self.run_id, corpus=self.corpus_id, stride=self.stride, **params)

    def plain(self, name: str, **params: Any) -> dict[str, NDArray[Any]]:
        """The same for queries that take the run alone."""
        return self._columns(name, run=self.run_id, **params)

    def documents(self, router: Router) -> Documents:
        rows = self.ask("routing.documents", layer=router.layer)
        names, domain = np.unique(rows["domain"].astype(str), return_inverse=True)
        counts = self.ask("routing.by_document", layer=router.layer)
        at = np.searchsorted(rows["doc"], counts["doc"]), counts["expert"]
        arrays = []
        for name in ("n", "n_first", "weight"):
            array = np.zeros((len(rows["doc"]), router.n_experts))
            array[at] = counts[name]
            arrays.append(array)
        return Documents(rows["grp"], domain, names.tolist(), rows["n_tokens"].astype(float), *arrays)

    def grid(self, name: str, router: Router, columns: tuple[str, str], value: str, **params: Any) -> Counts:
        """Counts (g, e, e') of a query split by group and two experts."""
        rows = self.ask(name, layer=router.layer, **params)
        return self.spread(rows, columns, value)

    def spread(self, rows: dict[str, NDArray[Any]], columns: tuple[str, str], value: str) -> Counts:
        n = max(r.n_experts for r in self.routers)
        out = np.zeros((GROUPS, n, n))
        out[rows["grp"], rows[columns[0]], rows[columns[1]]] = rows[value]
        return out

    def by_group(self, name: str, router: Router, columns: tuple[str, ...], **params: Any) -> Counts:
        """Counts (g, len(columns))."""
        rows = self.ask(name, layer=router.layer, **params)
        out = np.zeros((GROUPS, len(columns)))
        out[rows["grp"]] = np.stack([rows[c].astype(float) for c in columns], axis=1)
        return out

    def choices(self, router: Router, max_tokens: int) -> Choices:
        """Choices of at most about `max_tokens` tokens: of every so many-th document."""
        sizes = self.ask("routing.documents", layer=router.layer)["n_tokens"].sum()
        stride = self.stride * max(1, -(-int(sizes) // max_tokens))
        rows = self._columns(
            "routing.choices", run=self.run_id, corpus=self.corpus_id, stride=stride, layer=router.layer
        )
        tok, at = np.unique(rows["tok"], return_inverse=True)
        expert = np.full((len(tok), router.k), -1, dtype=np.int64)
        expert[at, rows["rank"] - 1] = rows["expert"]
        first = np.searchsorted(rows["tok"], tok)
        ids = {side: rows[side][first] for side in ("input", "next", "predicted")}
        return Choices(rows["doc"][first], expert, {s: v for s, v in ids.items() if (v >= 0).any()}, tok)

    def _columns(self, name: str, **params: Any) -> dict[str, NDArray[Any]]:
        table = self._store.query(name, **params)
        return {c: _array(table.column(c)) for c in table.column_names}


def _array(column: Any) -> NDArray[Any]:
    import pyarrow as pa

    if pa.types.is_integer(column.type) or pa.types.is_decimal(column.type):
        return column.cast(pa.int64()).fill_null(-1).to_numpy()
    return column.to_numpy()


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
