"""`Store`: the directory, opened. SQL in, Arrow out."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparse_rep.store import catalog, corpus, names
from sparse_rep.store.atomic import write_text
from sparse_rep.store.connection import connect
from sparse_rep.store.errors import StoreError
from sparse_rep.store.lease import Lease
from sparse_rep.store.manifest import Manifest, now, read_manifest
from sparse_rep.store.queries import queries
from sparse_rep.store.schema import SCHEMA_VERSION
from sparse_rep.store.writer import RunWriter


class Store:
    """A directory of runs, dictionaries and corpora.

    Raises:
        StoreError: `path` is a file, is no store (unless `create`), or was written by a newer version.
    """

    def __init__(self, path: Path | str, create: bool = False) -> None:
        self.path = Path(path).expanduser().absolute()
        _open(self.path, create)
        self._lock = threading.Lock()
        self._cached: tuple[str, duckdb.DuckDBPyConnection] | None = None

    def connect(self, *, runs: Iterable[str] | None = None) -> duckdb.DuckDBPyConnection:
        """An in-memory connection on which every table of the schema is a view, with the macros `top`, `acts_of`,
        `at_token`, `context` and `coact`.

        It shows the store as it was at this moment. Shards committed later need a new connection, and a seal removes the
        live files that an older connection reads; `query` sees to both by itself.

        Raises:
            StoreError: one of `runs` is not there.
        """
        return connect(self.path, runs)

    def query(self, name_or_sql: str, /, **params: Any) -> pa.Table:
        """Run a named query of `sql/queries/`, or plain SQL, with `$name` parameters. Always on the store as it is now.

        Raises:
            duckdb.Error: the SQL is wrong.
        """
        named = queries().get(name_or_sql)
        sql = named.sql if named else name_or_sql
        con = self._current()
        try:
            return _run(con, sql, params)
        except duckdb.Error:
            fresh = self._current()
            if fresh is con:
                raise
            return _run(fresh, sql, params)  # sealed while we were reading

    def generation(self) -> str:
        """Changes whenever what the views show does. Cheap: a key for caches."""
        return catalog.generation(self.path)

    def run_ids(self) -> list[str]:
        return catalog.run_ids(self.path)

    def manifest(self, run_id: str) -> Manifest:
        """The manifest of a run.

        Raises:
            StoreError: there is no such run, or it is damaged.
        """
        return read_manifest(self.run_path(run_id))

    def run_path(self, run_id: str) -> Path:
        """Folder of a run that is there."""
        path = names.run_folder(self.path, names.checked("run", run_id))
        if not path.is_dir():
            raise StoreError(f"there is no run {run_id!r} in {self.path}; it has {', '.join(self.run_ids()) or 'none'}")
        return path

    def dictionary_path(self, dictionary_id: str) -> Path:
        """Folder of a dictionary, whether it is there or not."""
        return self.path / "dictionaries" / names.checked("dictionary", dictionary_id)

    def put_corpus(
        self,
        corpus_id: str,
        *,
        token_ids: NDArray[np.uint32],
        docs: Mapping[str, Any],
        vocab: Mapping[str, Any],
        meta: Mapping[str, Any],
    ) -> None:
        """Write a corpus: token_ids (n), docs and vocab as columns of the tables `docs` and `vocab`. Doing it again is free.

        Raises:
            DataError: another text is there under this id.
        """
        corpus.put_corpus(self.path, corpus_id, token_ids, docs, vocab, meta)

    def has_corpus(self, corpus_id: str) -> bool:
        return (self._corpus(corpus_id) / "corpus.json").exists()

    def corpus_tokens(self, corpus_id: str) -> NDArray[np.uint32]:
        """Token ids (n_tokens)."""
        return corpus.token_ids(self._corpus(corpus_id))

    def corpus_docs(self, corpus_id: str) -> pa.Table:
        """Columns doc, tok_lo, tok_hi, domain, source, split, in order of tok_lo."""
        return corpus.documents(self._corpus(corpus_id))

    def corpus_meta(self, corpus_id: str) -> dict[str, Any]:
        """What `put_corpus` was given as `meta`."""
        return corpus.read_corpus(self._corpus(corpus_id)).meta

    def open_run(
        self,
        *,
        kind: str,
        name: str,
        config: Mapping[str, Any],
        config_hash: str,
        corpus_id: str | None = None,
        model: str | None = None,
        model_revision: str | None = None,
        kernel: str | None = None,
        code_version: str | None = None,
        n_shards_planned: int | None = None,
        n_tokens_planned: int | None = None,
    ) -> RunWriter:
        """Open the run of this config for writing: a new one, or the one that was cut short.

        Raises:
            StoreError: another process writes it; or a run of that id has another config.
        """
        run_id = names.checked("run", f"{name}-{config_hash[:8]}")
        folder = names.run_folder(self.path, run_id)
        folder.mkdir(parents=True, exist_ok=True)
        lease = Lease(folder)
        try:
            facts = {
                "corpus_id": corpus_id,
                "model": model,
                "model_revision": model_revision,
                "kernel": kernel,
                "code_version": code_version,
                "n_shards_planned": n_shards_planned,
                "n_tokens_planned": n_tokens_planned,
            }
            if (folder / "manifest.json").exists():
                manifest = read_manifest(folder)
                if manifest.config_hash != config_hash:
                    raise StoreError(f"run {run_id} has another config ({manifest.config_hash}): choose another name")
                if manifest.status == "sealed":
                    lease.release()
                    return RunWriter(folder, manifest, None)
                return RunWriter(folder, manifest.changed(**{k: v for k, v in facts.items() if v is not None}), lease)
            frozen = {"run_id": run_id, "config_hash": config_hash, "config": dict(config)}
            write_text(folder / "config.json", json.dumps(frozen, indent=1, default=str) + "\n")
            created = now()
            manifest = Manifest(
                run_id=run_id, kind=kind, name=name, config_hash=config_hash, created=created, updated=created, **facts
            )
            manifest.write(folder)
            return RunWriter(folder, manifest, lease)
        except BaseException:
            lease.release()
            raise

    def _corpus(self, corpus_id: str) -> Path:
        return corpus.corpora_folder(self.path) / names.checked("corpus", corpus_id)

    def _current(self) -> duckdb.DuckDBPyConnection:
        """A connection to the store as it is now. Kept until the store changes; old ones close with their last cursor."""
        with self._lock:
            key = self.generation()
            if self._cached is None or self._cached[0] != key:
                self._cached = (key, self.connect())
            return self._cached[1]


def _run(con: duckdb.DuckDBPyConnection, sql: str, params: Mapping[str, Any]) -> pa.Table:
    cursor = con.cursor()
    try:
        return cursor.sql(sql, params=params or None).to_arrow_table()
    finally:
        cursor.close()


def _open(path: Path, create: bool) -> None:
    marker = path / "store.json"
    if path.is_file():
        raise StoreError(f"{path} is a file: a store is a directory")
    if not marker.exists():
        if not create:
            raise StoreError(f"{path} is not a store: make one with `sparse-rep demo`, `train` or `extract`")
        if path.is_dir() and any(path.iterdir()) and not (path / "runs").is_dir():
            raise StoreError(f"{path} holds other files: give the store a directory of its own")
        for folder in ("runs", "dictionaries", "corpora", "annotations"):
            (path / folder).mkdir(parents=True, exist_ok=True)
        write_text(marker, json.dumps({"schema_version": SCHEMA_VERSION}) + "\n")
    try:
        version = int(json.loads(marker.read_text(encoding="utf-8"))["schema_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{marker} cannot be read: {error}") from error
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version}, this program knows {SCHEMA_VERSION}: upgrade sparse-rep"
        )
