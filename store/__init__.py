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
    from sparse_rep.store.exporting import export
    from sparse_rep.store.manifest import Manifest
    from sparse_rep.store.sandbox import run_sql
    from sparse_rep.store.sealing import seal
    from sparse_rep.store.store import Store
    from sparse_rep.store.verification import Problem, verify
    from sparse_rep.store.writer import RunWriter

# No module bears the name of what it offers: importing it would put the module in the function's place here.
_HOME = {
    "Manifest": "manifest",
    "Problem": "verification",
    "RunWriter": "writer",
    "SqlRefused": "errors",
    "SqlResult": "confined",
    "SqlTimeout": "errors",
    "Store": "store",
    "StoreError": "errors",
    "export": "exporting",
    "run_sql": "sandbox",
    "seal": "sealing",
    "verify": "verification",
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
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
