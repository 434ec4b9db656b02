"""`sparse-rep bench fidelity`: what is published of matching-pursuit dictionaries and their peers, measured again."""

from __future__ import annotations

import typer


def register(bench: typer.Typer) -> None:
    bench.command("fidelity", help=fidelity.__doc__)(fidelity)


def fidelity() -> None:
    """Train dictionaries on data whose true features are known, and say which of them come back."""
    raise NotImplementedError
