"""`sparse-rep profile`: what the parts of a model do on a text. One file in this folder a subcommand.

A file registers as a verb does: `register(profile: typer.Typer)` adds its command, and heavy imports wait until it runs.
"""

from __future__ import annotations

import importlib
import pkgutil

import typer


def register(app: typer.Typer) -> None:
    profile = typer.Typer(
        no_args_is_help=True, help="What the parts of a model do on a text: its routers, its attention heads."
    )
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}").register(profile)
    app.add_typer(profile, name="profile")
