"""One portable copy of a store, or of some of its runs: a DuckDB file, or a folder with one Parquet file a table."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import duckdb

from sparse_rep.store.atomic import TMP, explain_full, sync_directory, sync_file
from sparse_rep.store.errors import StoreError
from sparse_rep.store.schema import sql_text
from sparse_rep.store.views import literal

if TYPE_CHECKING:
    from sparse_rep.store.store import Store

ORDER = {
    "acts": "run_id, dictionary_id, feature, tok",
    "tokens": "corpus_id, tok",
}
"""Tables big enough that their order decides how fast and how small they are."""
DERIVED = frozenset({"acts_by_token"})


def export(
    store: Store, out: Path | str, *, format: Literal["duckdb", "parquet"] = "duckdb", runs: Iterable[str] | None = None
) -> Path:
    """Copy every table into `out`, which must not be there yet, and return its path.

    The DuckDB file carries the macros too and is readable by DuckDB 1.5 and later. It appears whole or not at all.

    Raises:
        StoreError: `out` is there, a run is not, or the format is unknown.
        StoreFull: no room; nothing is left behind.
    """
    target = Path(out).expanduser().absolute()
    if format not in ("duckdb", "parquet"):
        raise StoreError(f"cannot export as {format!r}: choose duckdb or parquet")
    if target.exists():
        raise StoreError(f"{target} is there already: remove it or choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.{os.getpid()}{TMP}")
    con = store.connect(runs=runs)
    try:
        with explain_full(target):
            names = [name for (name,) in con.execute("SHOW TABLES").fetchall() if name not in DERIVED]
            if format == "duckdb":
                _duckdb(con, names, draft)
                sync_file(draft)
            else:
                _parquet(con, names, draft)
        draft.rename(target)
        sync_directory(target.parent)
    finally:
        con.close()
        shutil.rmtree(draft, ignore_errors=True) if draft.is_dir() else draft.unlink(missing_ok=True)
        draft.with_name(f"{draft.name}.wal").unlink(missing_ok=True)
    return target


def _source(name: str) -> str:
    return f'FROM "{name}"' + (f" ORDER BY {ORDER[name]}" if name in ORDER else "")


def _duckdb(con: duckdb.DuckDBPyConnection, names: list[str], path: Path) -> None:
    con.execute(f"ATTACH {literal(str(path))} AS portable (STORAGE_VERSION 'v1.5.0')")
    for name in names:
        con.execute(f'CREATE TABLE portable."{name}" AS {_source(name)}')
    con.execute("USE portable")
    con.execute("CREATE VIEW acts_by_token AS SELECT a.* FROM acts AS a")
    con.execute(
        "CREATE MACRO acts_of(dictionary, feature) AS TABLE SELECT a.run_id, a.corpus_id, a.tok, a.act FROM acts AS a "
        "WHERE a.dictionary_id = dictionary AND a.feature = feature"
    )
    con.execute(sql_text("macros.sql"))
    con.execute("USE memory")
    con.execute("DETACH portable")


def _parquet(con: duckdb.DuckDBPyConnection, names: list[str], folder: Path) -> None:
    folder.mkdir()
    for name in names:
        path = literal(str(folder / f"{name}.parquet"))
        con.execute(f"COPY ({_source(name)}) TO {path} (FORMAT parquet, COMPRESSION zstd, PARQUET_VERSION v2)")
        sync_file(folder / f"{name}.parquet")
