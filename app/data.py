"""The app's only way to the store: named queries, small answers kept while the store does not change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import streamlit as st

from sparse_rep.app.sqltext import with_values
from sparse_rep.store import SqlResult, Store, StoreError, run_sql
from sparse_rep.store.queries import Query, queries
from sparse_rep.store.schema import Table, tables

Row = dict[str, Any]


def open_store() -> Store:
    """The store that SPARSE_REP_STORE names. Raises StoreError when there is none."""
    path = os.environ.get("SPARSE_REP_STORE")
    if not path:
        raise StoreError("no store is named: start the app with `sparse-rep app --store DIRECTORY`")
    return _open(str(Path(path).resolve()))


@st.cache_resource(max_entries=4, show_spinner=False)
def _open(path: str) -> Store:
    return Store(Path(path))


def store_path() -> str:
    """As the user named it, for commands that the app suggests."""
    return os.environ.get("SPARSE_REP_STORE", "STORE")


def rows(name: str, **params: Any) -> list[Row]:
    """Answer of a named query (`store/sql/queries/`), kept while the store does not change."""
    return _rows(str(open_store().path), open_store().generation(), name, **params)


def fresh(name: str, **params: Any) -> list[Row]:
    """The same, asked anew: for answers that nobody will ask for again."""
    return open_store().query(name, **params).to_pylist()


def sql_of(name: str, **params: Any) -> str:
    """The SQL that `rows` runs, its parameters written in."""
    return with_values(queries()[name].sql, params)


# One dictionary's visitors ask for some ten small answers a feature: 1024 answers keep about a hundred features at hand.
@st.cache_data(max_entries=1024, show_spinner=False)
def _rows(path: str, generation: str, name: str, **params: Any) -> list[Row]:
    return fresh(name, **params)


SQL_SECONDS = 20
SQL_ROWS = 10_000


def run(sql: str) -> SqlResult:
    """A user's query in the sandbox: reads the store, writes nothing.

    Raises StoreError: refused, wrong, or out of time, as one sentence.
    """
    return _run(str(open_store().path), open_store().generation(), sql)


# Kept so that a download or a change of theme does not run a slow query again.
@st.cache_resource(max_entries=8, ttl="10m", show_spinner=False)
def _run(path: str, generation: str, sql: str) -> SqlResult:
    return run_sql(open_store(), sql, timeout=SQL_SECONDS, max_rows=SQL_ROWS)


def schema() -> dict[str, Table]:
    """The tables with what their columns mean, from `store/sql/schema.sql`."""
    return tables()


def examples() -> dict[str, Query]:
    """Queries to start from: those of `app_examples`."""
    return {name: query for name, query in queries().items() if name.startswith("app_examples.")}
