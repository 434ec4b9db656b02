"""`sparse-rep export`: one portable copy of a store or of some of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sparse_rep.cli import options


def register(app: typer.Typer) -> None:
    app.command("export", help=export.__doc__)(export)


def export(
    out: Annotated[
        Path, typer.Option("--out", help="File (duckdb) or folder (parquet) to make; it must not be there yet.")
    ],
    format_: Annotated[
        Literal["duckdb", "parquet"],
        typer.Option("--format", help="One DuckDB file, or a folder with a Parquet file a table."),
    ] = "duckdb",
    runs: Annotated[
        str | None, typer.Option("--runs", help="Comma-separated run ids; all of them where left out.")
    ] = None,
    store: options.ExistingStore = options.DEFAULT_STORE,
    as_json: options.AsJson = False,
) -> None:
    """Copy a store, or some of its runs, into one file that any DuckDB (1.5 or later) opens.

    The copy has the same tables and macros. For everyday queries it is not needed: `sparse-rep sql` reads the store itself.

    Example: `sparse-rep export --store demo-store --out demo.duckdb`, then `duckdb demo.duckdb "from features limit 5"`
    """
    from sparse_rep.progress import Reporter
    from sparse_rep.store import Store
    from sparse_rep.store import export as export_store

    reporter = Reporter(as_json)
    path = export_store(Store(store), out, format=format_, runs=options.words(runs))
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    n_bytes = sum(p.stat().st_size for p in files)
    reporter.say(f"[bold]{path}[/bold]: {n_bytes / 1e6:,.1f} MB")
    reporter.result(path=str(path), bytes=n_bytes)
