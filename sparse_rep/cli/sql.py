"""`sparse-rep sql`: ask the store in SQL."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparse_rep.cli import options

if TYPE_CHECKING:
    from sparse_rep.store.confined import SqlResult

EXAMPLE = "SELECT feature, frac_nonzero, max_act, top_tokens FROM features ORDER BY max_act DESC LIMIT 10"


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"


def register(app: typer.Typer) -> None:
    app.command("sql", help=sql.__doc__)(sql)


def sql(
    query: Annotated[
        str | None, typer.Argument(help="One SELECT; `-` reads it from stdin. Without a query: the tables there are.")
    ] = None,
    store: options.ExistingStore = options.DEFAULT_STORE,
    format: Annotated[Format, typer.Option("--format", help="How rows are printed.")] = Format.table,
    max_rows: Annotated[int, typer.Option("--max-rows", min=1, help="Print at most this many rows.")] = 10_000,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds a query may take.")] = 60,
    as_json: options.AsJson = False,
) -> None:
    """Ask the store in SQL (DuckDB's). Reads only: nothing a query says can change a file.

    Without a query it lists the tables and what they hold. Macros: `top(dictionary, feature, k)`,
    `acts_of(dictionary, feature)`, `at_token(dictionary, tok)`, `context(corpus, tok, before, after)`,
    `coact(dictionary, feature, k)`.

    Example: `sparse-rep sql --store demo-store "SELECT run_id, kind, status, n_tokens FROM runs"`

    Example: `sparse-rep sql --format csv "FROM top('my-dictionary', 42, 20)" > examples.csv`
    """
    chosen = Format.json if as_json else format
    if query is None:
        from sparse_rep.store import Store

        _describe(Store(store), chosen)
        return
    result = _run(store, sys.stdin.read() if query == "-" else query, timeout, max_rows)
    _print(result.table.column_names, result.table.to_pylist(), chosen)
    if result.truncated:
        print(f"only the first {max_rows:,} rows: more with --max-rows", file=sys.stderr)  # noqa: T201


def _run(store: Any, query: str, timeout: float, max_rows: int) -> SqlResult:
    """This process runs one query and ends, so that it may confine itself instead of starting another."""
    from sparse_rep.store.confined import confined, execute, timed_out
    from sparse_rep.store.store import Store

    def late() -> None:
        os.write(2, f"sparse-rep: {timed_out(timeout)}\n".encode())
        os._exit(2)

    opened = Store(store)
    with confined(timeout, late):
        return execute(opened, query, timeout, max_rows)


def _describe(store: Any, format: Format) -> None:
    """The tables, how many rows each has, and what they mean."""
    from sparse_rep.store.schema import tables

    with store.connect() as con:
        counts = {name: con.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] for name in tables()}
    rows = [
        {"table": table.name, "rows": counts[table.name], "columns": ", ".join(table.names), "holds": table.note}
        for table in tables().values()
    ]
    _print(list(rows[0]), rows, format)
    if format is Format.table:
        print(f'\nTry: sparse-rep sql --store {store.path} "{EXAMPLE}"')  # noqa: T201


def _print(columns: list[str], rows: list[dict[str, Any]], format: Format) -> None:
    out = sys.stdout
    if format is Format.json:
        import json

        lines = ",\n ".join(json.dumps(row, default=str, ensure_ascii=False) for row in rows)
        out.write(f"[{lines}]\n")
    elif format is Format.csv:
        import csv

        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(row.values() for row in rows)
    else:
        _print_table(columns, rows)


def _print_table(columns: list[str], rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    numeric = {c for c in columns if rows and all(isinstance(r[c], int | float | None) for r in rows)}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*_cells(row.values()))
    console = Console(width=None if sys.stdout.isatty() else 10_000, markup=False, emoji=False, highlight=False)
    console.print(table)


def _cells(values: Any) -> Iterator[str]:
    for value in values:
        if value is None:
            yield "NULL"
        elif isinstance(value, float):
            yield f"{value:.6g}"
        elif isinstance(value, str):
            yield value.replace("\n", "⏎").replace("\t", "⇥")
        else:
            yield str(value)
