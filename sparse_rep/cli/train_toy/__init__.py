"""`sparse-rep train-toy`: train one of the small models that ship with the package. One file in this folder a subcommand.

A file registers as a verb does: `register(toys: typer.Typer)` adds its command, and heavy imports wait until it runs.
"""

from __future__ import annotations

import importlib
import pkgutil

import typer


def register(app: typer.Typer) -> None:
    toys = typer.Typer(
        no_args_is_help=True,
        help="Train the small models that ship with the package again, by the recipe they came from.",
    )
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}").register(toys)
    app.add_typer(toys, name="train-toy")
