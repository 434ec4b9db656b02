"""`sparse-rep export`: one portable copy of a store."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sparse_rep.cli import options


class Format(StrEnum):
    duckdb = "duckdb"
    parquet = "parquet"


def register(app: typer.Typer) -> None:
    app.command("export", help=export.__doc__)(export)


def export(
    out: Annotated[
        Path, typer.Option("--out", help="File (duckdb) or folder (parquet) to make; must not be there yet.")
    ],
    store: options.ExistingStore = options.DEFAULT_STORE,
    format: Annotated[
        Format, typer.Option("--format", help="duckdb: one file with tables and macros. parquet: one file a table.")
    ] = Format.duckdb,
    runs: Annotated[str | None, typer.Option("--runs", help="Comma-separated run ids; without it all.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Copy the store, or some of its runs, into one file that DuckDB 1.5 or later opens anywhere.

    Example: `sparse-rep export --store demo-store --out demo.duckdb`, then `duckdb demo.duckdb "FROM top('my-dictionary', 42, 5)"`
    """
    from sparse_rep.progress import Reporter
    from sparse_rep.store import Store
    from sparse_rep.store import export as export_store

    reporter = Reporter(as_json)
    path = export_store(Store(store), out, format=format.value, runs=options.words(runs))
    size = sum(f.stat().st_size for f in ([path] if path.is_file() else path.iterdir()))
    reporter.say(f"{path}: {size:,} bytes")
    reporter.result(path=str(path), format=format.value, bytes=size)
