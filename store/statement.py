"""Is this text one query of the store's tables and nothing else? Judged on DuckDB's own syntax tree, before anything runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

from sparse_rep.store.errors import SqlRefused, StoreError

SOURCES = frozenset(
    {"range", "generate_series", "unnest", "json_each", "top", "acts_of", "at_token", "context", "coact"}
)
"""Functions that may stand in FROM besides the views. `read_*` and `glob` open files, `query` runs text."""
SECRETIVE = frozenset({"getenv", "current_setting", "getvariable", "which_secret"})
"""Scalar functions that tell about the process instead of the store."""
_EXPLAIN = re.compile(r"\s*explain\b\s*(analyze\b)?\s*(\([^)]*\))?", re.IGNORECASE)


def check(con: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Pass one SELECT, VALUES, FROM, DESCRIBE, SHOW or SUMMARIZE, or EXPLAIN of one.

    Raises:
        SqlRefused: anything else, or a query of something that is not a table of the store.
        StoreError: it is not SQL.
    """
    try:
        statements = con.extract_statements(sql)
    except duckdb.Error as error:
        raise StoreError(first_sentence(error)) from error
    if len(statements) != 1:
        raise SqlRefused(f"one statement at a time: this is {len(statements)}")
    kind, text = statements[0].type, statements[0].query
    if kind == duckdb.StatementType.EXPLAIN:
        return check(con, _EXPLAIN.sub("", text, count=1))
    if kind != duckdb.StatementType.SELECT:
        raise SqlRefused(f"only SELECT is run here, not {kind.name.replace('_', ' ')}")
    tree = json.loads(con.execute("SELECT json_serialize_sql($sql)", {"sql": text}).fetchall()[0][0])
    if tree["error"]:
        raise SqlRefused(f"only SELECT is run here: {tree['error_message']}")
    for node in _nodes(tree):
        _check_node(node)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    stack = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _check_node(node: dict[str, Any]) -> None:
    kind = node.get("type")
    if kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name")).lower()
        if name not in SOURCES:
            raise SqlRefused(f"{name}() cannot be read from here: the store's tables can (`sparse-rep sql` lists them)")
    elif kind == "BASE_TABLE" and not re.fullmatch(r"\w+", str(node.get("table_name"))):
        raise SqlRefused(f"{node.get('table_name')!r} is not a table of the store: files cannot be read here")
    elif kind == "FUNCTION" and str(node.get("function_name")).lower() in SECRETIVE:
        raise SqlRefused(f"{node['function_name']}() is not available here")


def first_sentence(error: Exception) -> str:
    """What DuckDB complains of, without the picture of the query below it."""
    return " ".join(str(error).split("\n\n")[0].split())
