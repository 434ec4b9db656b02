"""`sparse-rep bench`: experiments that hold a method to what its paper says of it. One file in this folder a subcommand.

A file registers as a verb does: `register(bench: typer.Typer)` adds its command, and heavy imports wait until it runs.
Files whose names begin with an underscore are shared by the others.
"""

from __future__ import annotations

import importlib
import pkgutil

import typer


def register(app: typer.Typer) -> None:
    bench = typer.Typer(
        no_args_is_help=True,
        help="Hold the methods to what their papers say of them, on data whose truth is known. Figures: docs/benchmarks.md.",
    )
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("_"):
            continue
        importlib.import_module(f"{__name__}.{module.name}").register(bench)
    app.add_typer(bench, name="bench")
