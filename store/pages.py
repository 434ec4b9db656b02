"""Page tables: what a feature page shows, computed for all latents at once by the SQL of `sql/pages.sql`.

numpy adds the columns that SQL would join for: token ids, document runs, contexts and the random draw.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparse_rep.store.compact import Chunk
from sparse_rep.store.corpus_view import CorpusView, Encoded
from sparse_rep.store.queries import blocks
from sparse_rep.store.schema import PAGE_TABLES, sql_text, tables

CONTEXT_BLOCK = 1 << 20
_NEEDS_TOKENS = frozenset({"page.feature_tokens"})
_NEEDS_DOCS = frozenset({"page.doc_counts", "page.feature_domains"})


def draw(feature: NDArray[np.uint32], tok: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A pseudo-random number for each row that depends on nothing else: samples are the rows with the smallest ones.

    Multiply-xorshift mixing with the constants of xxHash32 (Collet), all modulo 2^32.
    """
    x = tok * np.uint32(2654435761)
    x ^= feature * np.uint32(2246822519)
    for shift, factor in ((15, 2246822519), (13, 3266489917)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    return x


class Pages:
    """Writes the page tables of a run's dictionaries, one after the other, into an attached database `page`."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        run_id: str,
        corpus_id: str | None,
        view: CorpusView | None,
        encoded: Encoded,
    ) -> None:
        self._con, self._view, self._encoded = con, view, encoded
        self._sql = blocks(sql_text("pages.sql"))
        for name in PAGE_TABLES:
            columns = ", ".join(f"{c.sql} {c.type}" for c in tables()[name].columns)
            con.execute(f"CREATE TABLE page.{name} ({columns})")
        self._set(run_id=run_id, corpus_id=corpus_id, n_tokens=encoded.n, has_docs=view is not None)
        self._describe_text()

    def begin(self, dictionary_id: str, n_latents: int) -> None:
        self._set(dictionary_id=dictionary_id, n_latents=n_latents)
        self._run("begin.")

    def add(self, chunk: Chunk) -> None:
        """Everything that needs only the rows of these features."""
        if not len(chunk.tok):
            return
        feature = chunk.feature
        columns = {"feature": feature, "tok": chunk.tok, "act": chunk.act, "draw": draw(feature, chunk.tok)}
        empty = {"feature": np.empty(0, np.uint32), "doc": np.empty(0, np.uint32), "n": np.empty(0, np.uint64)}
        runs = empty
        if self._view is not None:
            columns["token_id"] = self._view.token_ids[chunk.tok]
            runs = _runs(feature, self._view.doc_of[chunk.tok])
        self._set(chunk_first=int(feature[0]), chunk_last=int(feature[-1]))
        with self._registered(codes=pa.table(columns), doc_runs=pa.table(runs)):
            self._run("page.")
            self._top()

    def end(self) -> None:
        """What needs all features of the dictionary."""
        self._run("end.")

    def coact(self, feature: NDArray[np.uint32], tok: NDArray[np.uint32], n_tokens: int, bounds: list[int]) -> None:
        """Co-activation from the codes (feature, tok) of `n_tokens` sampled tokens, features cut at `bounds`."""
        with self._registered(sampled_rows=pa.table({"feature": feature, "tok": tok})):
            self._con.execute("CREATE OR REPLACE TEMP TABLE sampled AS FROM sampled_rows")
        for lo, hi in itertools.pairwise(bounds):
            self._set(coact_lo=lo, coact_hi=hi, coact_tokens=n_tokens)
            self._run("coact.")
        self._con.execute("DROP TABLE sampled; DROP TABLE IF EXISTS pairs")

    def carry(self, name: str, source: str) -> None:
        """Take over rows that a job wrote itself: `source` is a relation with the table's columns but run_id."""
        self._con.execute(f"INSERT INTO page.{name} BY NAME SELECT getvariable('run_id') AS run_id, * FROM {source}")

    def _top(self) -> None:
        """The 20 strongest examples with different contexts. Nearly always they are among the 100 strongest; where they are
        not, every row of the latent is looked at."""
        self._con.execute(self._sql["top.none_crowded"])
        for source in ("top.candidates", "top.all_rows"):
            rows = self._con.sql(self._sql[source]).to_arrow_table().combine_chunks()
            with self._registered(examples=rows.append_column("context", pa.array(self._contexts(rows)))):
                self._con.execute(self._sql["top.best"])
            if source == "top.candidates":
                self._con.execute(self._sql["top.crowded"])
                self._con.execute(self._sql["top.insert"])
                if not self._con.execute("SELECT count(*) FROM crowded").fetchall()[0][0]:
                    return
        self._con.execute(self._sql["top.none_crowded"])
        self._con.execute(self._sql["top.insert"])

    def _contexts(self, rows: pa.Table) -> NDArray[np.uint64]:
        tok = rows.column("tok").to_numpy()
        if self._view is None:
            return tok.astype(np.uint64)
        blocks = (tok[at : at + CONTEXT_BLOCK] for at in range(0, max(len(tok), 1), CONTEXT_BLOCK))
        return np.concatenate([self._view.contexts(block) for block in blocks])

    def _describe_text(self) -> None:
        """Small tables about the encoded text."""
        con, view = self._con, self._view
        docs = {"doc": pa.array([], pa.uint32()), "domain": pa.array([], pa.string())}
        domains = {"domain": pa.array([], pa.string()), "n_tokens": pa.array([], pa.uint64())}
        counts = np.empty(0, np.int64)
        if view is not None:
            docs = {"doc": np.arange(view.docs.num_rows, dtype=np.uint32), "domain": view.docs.column("domain")}
            sizes = view.domain_sizes(self._encoded)
            domains = {"domain": list(sizes), "n_tokens": pa.array(sizes.values(), pa.uint64())}
            counts = view.token_counts(self._encoded)
        tokens = {"token_id": np.arange(len(counts), dtype=np.uint32), "n": counts}
        for name, columns in {"docs": docs, "domains": domains, "token_counts": tokens}.items():
            with self._registered(given=pa.table(columns)):
                con.execute(f"CREATE TEMP TABLE {name} AS FROM given")
        con.execute("CREATE TEMP TABLE vocab (token_id UINTEGER, text VARCHAR)")
        if view is not None:
            con.execute("INSERT INTO vocab SELECT token_id, text FROM read_parquet($path)", {"path": str(view.vocab)})

    def _run(self, prefix: str) -> None:
        for name, sql in self._sql.items():
            if name.startswith(prefix) and (self._view is not None or name not in _NEEDS_TOKENS | _NEEDS_DOCS):
                self._con.execute(sql)

    def _set(self, **variables: Any) -> None:
        for name, value in variables.items():
            self._con.execute(f"SET VARIABLE {name} = $value", {"value": value})

    @contextmanager
    def _registered(self, **relations: pa.Table) -> Iterator[None]:
        for name, table in relations.items():
            self._con.register(name, table)
        try:
            yield
        finally:
            for name in relations:
                self._con.unregister(name)


def _runs(feature: NDArray[np.uint32], doc: NDArray[np.uint32]) -> dict[str, NDArray]:
    """Rows by (feature, doc). Rows are sorted by both, so equal pairs lie together."""
    new = np.empty(len(feature), dtype=bool)
    new[:1] = True
    np.not_equal(feature[1:], feature[:-1], out=new[1:])
    new[1:] |= doc[1:] != doc[:-1]
    at = np.flatnonzero(new)
    return {"feature": feature[at], "doc": doc[at], "n": np.diff(at, append=len(feature)).astype(np.uint64)}
