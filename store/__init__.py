"""A directory of immutable Parquet files under manifests, plus one sealed DuckDB index a run. SQL is its API.

    store = Store("store")
    store.query("SELECT tok, act FROM top('my-dictionary', 42, 20)")

This package imports numpy, pyarrow, pydantic and duckdb, nothing of ours but `errors`, and never torch.

Queries that have a name live in `store/sql/queries/<topic>.sql`; that folder is searched, so a new file needs no
registration. A file holds blocks that start with `-- name: <topic>.<query>`; the comment lines right below the name
describe it, parameters are written `$name`, and `store.query("<topic>.<query>", name=...)` runs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_rep.store.confined import SqlResult
    from sparse_rep.store.errors import SqlRefused, SqlTimeout, StoreError
    from sparse_rep.store.export import export
    from sparse_rep.store.manifest import Manifest
    from sparse_rep.store.sandbox import run_sql
    from sparse_rep.store.seal import seal
    from sparse_rep.store.store import Store
    from sparse_rep.store.verify import Problem, verify
    from sparse_rep.store.writer import RunWriter

_HOME = {
    "Manifest": "manifest",
    "Problem": "verify",
    "RunWriter": "writer",
    "SqlRefused": "errors",
    "SqlResult": "confined",
    "SqlTimeout": "errors",
    "Store": "store",
    "StoreError": "errors",
    "export": "export",
    "run_sql": "sandbox",
    "seal": "seal",
    "verify": "verify",
}

__all__ = [
    "Manifest",
    "Problem",
    "RunWriter",
    "SqlRefused",
    "SqlResult",
    "SqlTimeout",
    "Store",
    "StoreError",
    "export",
    "run_sql",
    "seal",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found  # the import bound the submodule of the same name here
    return found
