"""A DuckDB connection that sees the store: views in place, damaged runs left out and named."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import duckdb

from sparse_rep.store import views
from sparse_rep.store.catalog import RunRecord, read_runs

ATTEMPTS = 3


def connect(store: Path, runs: Iterable[str] | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory connection with every view and macro. A run that cannot be opened is a row of `runs`, status 'damaged'.

    Raises:
        StoreError: one of `runs` is not there.
    """
    wanted = None if runs is None else list(runs)
    for _ in range(ATTEMPTS):  # a seal that ends while we look moves the files away under us: look again
        records = read_runs(store, wanted)
        con = fresh()
        try:
            views.build(con, store, records)
            return con
        except duckdb.Error:
            con.close()
    con = fresh()
    views.build(con, store, [probed(store, record) for record in read_runs(store, wanted)])
    return con


def fresh() -> duckdb.DuckDBPyConnection:
    """An empty connection, set up for immutable files."""
    con = duckdb.connect(":memory:")
    con.execute("SET parquet_metadata_cache = true")
    con.execute("SET python_enable_replacements = false")
    con.execute("SET enable_progress_bar = false")  # it would draw over ours
    return con


def probed(store: Path, record: RunRecord) -> RunRecord:
    """The record, marked as damaged when its views cannot be made."""
    if record.problem:
        return record
    con = fresh()
    try:
        views.build(con, store, [record])
        return record
    except duckdb.Error as error:
        return replace(record, problem=str(error).splitlines()[0])
    finally:
        con.close()
