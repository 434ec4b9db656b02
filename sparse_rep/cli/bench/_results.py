"""What a benchmark found: a table of medians for people, one JSON object a row for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from sparse_rep.progress import Reporter


def medians(
    rows: Iterable[dict[str, Any]], by: Sequence[str], columns: Sequence[str]
) -> list[tuple[tuple[Any, ...], list[float]]]:
    """The median of each column over the rows that agree in `by`, in order of first appearance."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    return [(key, [median(row[c] for row in group) for c in columns]) for key, group in groups.items()]


def show(
    title: str, rows: Sequence[dict[str, Any]], by: Sequence[str], columns: Sequence[str], reporter: Reporter
) -> None:
    """Print every row as JSON where that was asked for, else the medians as a table on stdout."""
    for row in rows:
        reporter.result(**row)
    if reporter.as_json:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in by:
        table.add_column(name)
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for key, values in medians(rows, by, columns):
        table.add_row(*map(str, key), *(f"{value:.3g}" for value in values))
    Console().print(table)
