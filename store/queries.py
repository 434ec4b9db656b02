"""Queries with a name, found in `sql/queries/<topic>.sql`."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Query:
    name: str
    note: str
    sql: str


@functools.cache
def queries() -> dict[str, Query]:
    """Every named query. A block starts with `-- name: topic.query`; the comment below it is its description."""
    folder = resources.files("sparse_rep.store.sql") / "queries"
    found = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".sql"):
            for name, body in _split(file.read_text(encoding="utf-8")):
                assert name not in found, f"two queries are called {name}"
                found[name] = _query(name, body)
    return found


def blocks(text: str) -> dict[str, str]:
    """The named statements of a file, in its order."""
    return {name: _query(name, body).sql for name, body in _split(text)}


def _split(text: str) -> list[tuple[str, str]]:
    parts = re.split(r"^-- name:", text, flags=re.MULTILINE)[1:]
    return [(name.strip(), body) for name, _, body in (part.partition("\n") for part in parts)]


def _query(name: str, body: str) -> Query:
    lines = body.strip().splitlines()
    comment = []
    while lines and lines[0].startswith("--"):
        comment.append(lines.pop(0).lstrip("- ").strip())
    return Query(name, " ".join(comment), "\n".join(lines).strip().rstrip(";"))
