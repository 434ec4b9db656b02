"""Writing a run: shards that are committed whole or not at all, under one manifest, by one process at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparse_rep.errors import DataError, Interrupted
from sparse_rep.store import names
from sparse_rep.store.atomic import TMP, explain_full, remove_where
from sparse_rep.store.columns import fit
from sparse_rep.store.errors import StoreError
from sparse_rep.store.lease import Lease
from sparse_rep.store.manifest import FileEntry, Manifest, ShardEntry
from sparse_rep.store.parquet import (
    BY_FEATURE,
    ENCODINGS,
    PLAIN,
    RUNS,
    activations_table,
    codes_table,
    write_parquet,
)
from sparse_rep.store.rows import Codes, canonical

CodeColumns = tuple[NDArray, NDArray, NDArray]
"""feature (nnz), tok (nnz), act (nnz), in any order."""
DenseColumns = tuple[NDArray, NDArray]
"""tok (rows), x (rows, d)."""
FACTS = frozenset({"kernel", "note", "model", "model_revision", "code_version", "n_shards_planned", "n_tokens_planned"})


class RunWriter:
    """One run, open for writing. Made by `Store.open_run`; a context manager that gives the run back at its end.

    Leaving the block by an error marks the run as failed, by Ctrl-C leaves it live; either way what was committed stays and
    opening it again goes on from there.
    """

    def __init__(self, folder: Path, manifest: Manifest, lease: Lease | None) -> None:
        self.path = folder
        self._manifest = manifest
        self._lease = lease
        if lease is not None:
            self._recover()

    @property
    def run_id(self) -> str:
        return self._manifest.run_id

    @property
    def status(self) -> str:
        return self._manifest.status

    @property
    def sealed(self) -> bool:
        """A sealed run is never written again."""
        return self._manifest.status == "sealed"

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def committed(self) -> frozenset[str]:
        """Names of the shards that are whole on disk."""
        return frozenset(shard.name for shard in self._manifest.shards)

    def write_shard(
        self,
        name: str,
        *,
        tok_lo: int,
        tok_hi: int,
        codes: Mapping[str, CodeColumns] | None = None,
        activations: Mapping[str, DenseColumns] | None = None,
        tables: Mapping[str, Mapping[str, Any] | pa.Table] | None = None,
    ) -> None:
        """Commit everything known about corpus tokens [tok_lo, tok_hi) at once.

        A shard of that name that is there already is replaced.

        Raises:
            DataError: tokens outside the range or in another shard, duplicates, values that are not finite.
            StoreFull: no room; nothing of this shard is kept.
            StoreError: the run is sealed, or the lease was lost.
        """
        self._writable()
        names.checked("shard", name)
        others = tuple(shard for shard in self._manifest.shards if shard.name != name)
        sorted_codes = {d: canonical(*columns) for d, columns in (codes or {}).items()}
        _check_range(name, tok_lo, tok_hi, sorted_codes, others)
        fixed = {"corpus_id": self._manifest.corpus_id}
        plan: list[tuple[str, str, str, pa.Table, dict[str, Any]]] = []
        for dictionary, rows in sorted_codes.items():
            path = names.live_file(names.checked("dictionary", dictionary), name)
            plan.append(("codes", dictionary, path, codes_table(rows), BY_FEATURE))
        for hook, (tok, x) in (activations or {}).items():
            path = names.activations_file(names.checked("hook", hook), name)
            plan.append(("activations", hook, path, activations_table(tok, x), PLAIN))
        for table, columns in (tables or {}).items():
            path = names.table_file(names.checked("table", table), name)
            plan.append(("tables", table, path, fit(table, columns, fixed), ENCODINGS.get(table, PLAIN)))
        entries: dict[str, dict[str, FileEntry]] = {"codes": {}, "activations": {}, "tables": {}}
        try:
            for part, key, path, table, encoding in plan:
                entries[part][key] = write_parquet(self.path, path, table, encoding, runs=RUNS.get(key))
            shard = ShardEntry(name=name, tok_lo=tok_lo, tok_hi=tok_hi, **entries)
            self._commit(shards=tuple(sorted((*others, shard), key=lambda s: (s.tok_lo, s.name))), status="live")
        except BaseException:
            self._remove_unlisted()
            raise

    def write_table(self, name: str, columns: Mapping[str, Any] | pa.Table, part: str = "000000") -> None:
        """Write rows of a table (metrics, heads, matches, ...). Writing a part again replaces it.

        Raises:
            DataError: a column that the schema does not have.
        """
        self._writable()
        path = names.table_file(names.checked("table", name), names.checked("part", part))
        fixed = {"corpus_id": self._manifest.corpus_id}
        parts = self._manifest.tables.get(name, {})
        revision = f"{path.removesuffix('.parquet')}.{time.time_ns():x}.parquet" if part in parts else path
        try:
            entry = write_parquet(self.path, revision, fit(name, columns, fixed))
            self._commit(tables={**self._manifest.tables, name: {**parts, part: entry}})
        finally:
            self._remove_unlisted()

    def append_event(self, event: Mapping[str, Any]) -> None:
        """Add a line to events.jsonl, which people and the app follow while the job runs."""
        with explain_full(self.path / "events.jsonl"), (self.path / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(event), default=str) + "\n")

    def update(self, **facts: Any) -> None:
        """Record facts about the run: columns of `runs` by their names, anything else under `facts`."""
        self._writable()
        known = {k: v for k, v in facts.items() if k in FACTS}
        rest = {k: v for k, v in facts.items() if k not in FACTS}
        self._commit(**known, facts={**self._manifest.facts, **rest})

    def finish(self) -> None:
        """All shards are there: the run is complete and may be sealed."""
        self._writable()
        self._commit(status="complete")

    def close(self) -> None:
        """Let others write. Called by the end of the `with` block."""
        if self._lease is not None:
            self._lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._lease is not None and isinstance(error, Exception) and not isinstance(error, Interrupted):
                self._commit(status="failed", note=f"{type(error).__name__}: {error}"[:500])
        except (OSError, StoreError):
            pass  # the error on its way says more than that it could not be recorded
        finally:
            self.close()

    def _writable(self) -> None:
        if self.sealed:
            raise StoreError(f"run {self.run_id} is sealed and is not written again: change the config or the name")

    def _commit(self, **fields: Any) -> None:
        assert self._lease is not None
        self._lease.check()
        fresh = self._manifest.changed(**fields)
        fresh.write(self.path)
        self._manifest = fresh

    def _recover(self) -> None:
        """After a crash: forget shards whose files are not whole, so that they are made again; delete what is unlisted."""
        whole = []
        for shard in self._manifest.shards:
            files = (*shard.codes.values(), *shard.activations.values(), *shard.tables.values())
            problems = [problem for file in files if (problem := file.problem(self.path))]
            if problems:
                self.append_event({"event": "shard_dropped", "time": time.time(), "shard": shard.name, "why": problems})
            else:
                whole.append(shard)
        if len(whole) < len(self._manifest.shards) or self._manifest.status == "failed":
            self._commit(shards=tuple(whole), status="live", note=None)
        self._remove_unlisted()

    def _remove_unlisted(self) -> None:
        remove_unlisted(self.path, self._manifest)


OWNED = frozenset({"live", "codes", "by_token", "activations", "tables"})


def remove_unlisted(folder: Path, manifest: Manifest) -> None:
    """Delete unfinished files and what the manifest does not list; what is not the store's (checkpoints) stays."""
    listed = {file.path for file in manifest.files()}

    def unwanted(path: Path) -> bool:
        place = path.relative_to(folder)
        ours = place.parts[0] in OWNED or place.match("index.g*.duckdb*")
        return any(part.endswith(TMP) for part in place.parts) or (ours and place.as_posix() not in listed)

    remove_where(folder, unwanted)


def _check_range(
    name: str, tok_lo: int, tok_hi: int, codes: Mapping[str, Codes], others: tuple[ShardEntry, ...]
) -> None:
    """Shards of a dictionary hold disjoint tokens: that is what makes (feature, tok) unique across them."""
    if not 0 <= tok_lo <= tok_hi:
        raise DataError(f"shard {name} has the token range [{tok_lo}, {tok_hi}), which is none")
    for dictionary, rows in codes.items():
        if len(rows) and (int(rows.tok.min()) < tok_lo or int(rows.tok.max()) >= tok_hi):
            raise DataError(f"shard {name} holds tokens outside its range [{tok_lo}, {tok_hi})")
        for other in others:
            if dictionary in other.codes and np.maximum(tok_lo, other.tok_lo) < np.minimum(tok_hi, other.tok_hi):
                raise DataError(
                    f"shards {name} and {other.name} both hold tokens of {dictionary}: ranges must not overlap"
                )
