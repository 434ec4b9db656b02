"""What a benchmark found, as a table for people. Programs get every row by `Reporter.result`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from sparse_rep.progress import Reporter


def medians(rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> dict[str, list[float]]:
    """By method, the median of each column over its rows, in order of first appearance."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["method"], []).append(row)
    return {method: [median(row[c] for row in group) for c in columns] for method, group in groups.items()}


def show_medians(title: str, rows: Sequence[dict[str, Any]], columns: Sequence[str], reporter: Reporter) -> None:
    """A line a method on stdout; nothing where JSON was asked for."""
    shown = [
        {"method": method, **dict(zip(columns, values, strict=True))}
        for method, values in medians(rows, columns).items()
    ]
    show_rows(title, shown, ("method", *columns), reporter)


def show_rows(title: str, rows: Sequence[dict[str, Any]], columns: Sequence[str], reporter: Reporter) -> None:
    """A line a row on stdout, the first column being words; nothing where JSON was asked for."""
    if reporter.as_json:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(name.replace("_", " "), justify="right" if place else "left")
    for row in rows:
        first, *rest = (row.get(name) for name in columns)
        table.add_row(str(first), *("" if value is None else f"{value:.3g}" for value in rest))
    console = Console()
    console.print(f"\n[bold]{title}[/bold]", highlight=False)
    console.print(table)
