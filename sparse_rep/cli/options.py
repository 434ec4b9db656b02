"""Options that several verbs share, said once so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_STORE = Path("store")
TEXT = (
    "Comma-separated: stdlib, pip-readmes, pydoc-topics, c-headers, hf:NAME, or paths of text, JSONL, Parquet, folders."
)
"""Help of --text."""

Store = Annotated[
    Path, typer.Option("--store", envvar="SPARSE_REP_STORE", help="Directory of the store; made if it is not there.")
]
ExistingStore = Annotated[Path, typer.Option("--store", envvar="SPARSE_REP_STORE", help="Directory of the store.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file of settings; flags and --set win over it.")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Any setting by its dotted name.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON result on stdout, events as JSON lines on stderr, no bars.")
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]


def words(text: str | None) -> tuple[str, ...] | None:
    """A comma-separated list as the shell gives it."""
    return None if text is None else tuple(w.strip() for w in text.split(",") if w.strip())


def varied(items: list[str] | None) -> dict[str, tuple[Any, ...]] | None:
    """`NAME=V1,V2` arguments by name, values read as YAML reads them. Raises ConfigError for one that names nothing."""
    if items is None:
        return None
    import yaml

    from sparse_rep.errors import ConfigError

    found: dict[str, tuple[Any, ...]] = {}
    for item in items:
        name, sign, text = item.partition("=")
        if not sign or not name or not words(text):
            raise ConfigError(f"--sweep wants NAME=VALUE,VALUE,..., got {item!r}")
        found[name] = tuple(yaml.safe_load(word) for word in words(text) or ())
    return found
