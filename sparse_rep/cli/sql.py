"""`sparse-rep sql`: ask a store. Reads only; starts without torch."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from sparse_rep.cli import options

if TYPE_CHECKING:
    import pyarrow as pa

CELL = 80
"""Widest cell of a table on a terminal; csv and json are never cut."""


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"


def register(app: typer.Typer) -> None:
    app.command("sql", help=sql.__doc__)(sql)


def sql(
    query: Annotated[
        str | None, typer.Argument(help="One SELECT; `-` reads it from stdin. Left out: lists the tables.")
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="How rows are printed.")] = Format.table,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds after which the query is stopped.")] = 60,
    max_rows: Annotated[int, typer.Option("--max-rows", help="Rows printed at most.")] = 100_000,
    store: options.ExistingStore = options.DEFAULT_STORE,
) -> None:
    """Run one SQL query over every run of a store.

    Tables are described by `sparse-rep sql` without a query, and questions worth asking are in docs/sql.md. Queries read and
    nothing else: no file outside the store can be opened, nothing can be written.

    Example: `sparse-rep sql --store demo-store --format csv "select feature, top_tokens from features limit 10"`
    """
    from sparse_rep.store import run_sql

    if query is None:
        _print_tables()
        return
    result = run_sql(store, sys.stdin.read() if query == "-" else query, timeout=timeout, max_rows=max_rows)
    _PRINT[format_](result.table)
    if result.truncated:
        print(f"sparse-rep: cut at {max_rows:,} rows; see --max-rows", file=sys.stderr)  # noqa: T201


def _print_tables() -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from sparse_rep.store.schema import tables

    console = Console()
    for table in tables().values():
        console.print(f"\n[bold]{table.name}[/bold]  [dim]{table.note}[/dim]", highlight=False)
        columns = Table(show_header=False, box=None, padding=(0, 2))
        for column in table.columns:
            columns.add_row(column.name, Text(column.type, style="dim"), column.note)
        console.print(columns, highlight=False)


def _print_table(rows: pa.Table) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for field in rows.schema:
        table.add_column(field.name, justify="right" if _is_number(field.type) else "left", overflow="fold")
    for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        table.add_row(*(Text(_cell(value)) for value in row))
    console = Console()
    if not console.is_terminal:
        console.width = 10_000  # a pipe has no edge to wrap at
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value).replace("\n", "⏎")
    return text if len(text) <= CELL else f"{text[: CELL - 1]}…"


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)


def _print_csv(rows: pa.Table) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(rows.column_names)
    writer.writerows(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def _print_json(rows: pa.Table) -> None:
    import json

    for row in rows.to_pylist():
        print(json.dumps(row, default=str, ensure_ascii=False))  # noqa: T201


_PRINT = {Format.table: _print_table, Format.csv: _print_csv, Format.json: _print_json}
