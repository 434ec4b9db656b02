"""Sealing: a run's live shards become feature buckets, an optional copy by token, and an index of page tables.

Everything is written beside what is there; one manifest replacement switches over; only then are the live files removed. Killed
before that, the run is as it was; killed after, it is sealed; running it again finishes either way. Readers with an older list
of files: `Store.query` looks again by itself, a connection made by hand must be made again when it misses a file.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from sparse_rep.store import names
from sparse_rep.store.atomic import TMP, explain_full, file_sha256, sync_file
from sparse_rep.store.by_token import write_by_token
from sparse_rep.store.catalog import dictionary_row
from sparse_rep.store.coact import TokenSample, feature_bounds
from sparse_rep.store.compact import Chunk, ShardFiles, bucket_size, chunk_bounds
from sparse_rep.store.corpus import corpora_folder
from sparse_rep.store.corpus_view import Encoded, open_corpus
from sparse_rep.store.errors import StoreError
from sparse_rep.store.joining import join
from sparse_rep.store.lease import Lease
from sparse_rep.store.manifest import FileEntry, Manifest, SealedCodes, SealedIndex, read_manifest
from sparse_rep.store.pages import Pages
from sparse_rep.store.parquet import BY_FEATURE, RUNS, codes_table, write_parquet
from sparse_rep.store.views import literal, parquet
from sparse_rep.store.writer import remove_unlisted

if TYPE_CHECKING:
    from sparse_rep.store.store import Store

Progress = Callable[[str, float], None]
BYTES_A_ROW = 48
"""Of a chunk in memory while it is merged, written and aggregated, DuckDB's own memory not counted."""
MAX_CHUNK_ROWS = 16 * 1024 * 1024
WRITERS = 2


def seal(
    store: Store,
    run_id: str,
    *,
    by_token: bool = True,
    memory_limit: str = "4GB",
    threads: int | None = None,
    coact_tokens: int = 65_536,
    progress: Progress | None = None,
) -> int:
    """Seal a complete run and return its generation. Sealing a sealed run only tidies up.

    `memory_limit` bounds the whole step, DuckDB's part included. `coact_tokens` is the number of tokens on which co-activation
    is counted. `progress` is called with the name of a phase and the share of it that is done.

    Raises:
        StoreError: the run is unfinished, damaged, or held by a writer.
        StoreFull: no room; the run is as it was.
    """
    folder = store.run_path(run_id)
    lease = Lease(folder)
    try:
        manifest = read_manifest(folder)
        remove_unlisted(folder, manifest)
        if manifest.status == "sealed":
            return manifest.generation
        if manifest.status != "complete":
            done, planned = len(manifest.shards), manifest.n_shards_planned
            of = f" of {planned}" if planned else ""
            raise StoreError(f"run {run_id} is {manifest.status} with {done}{of} shards: finish it before sealing")
        if problem := next((p for file in manifest.files() if (p := file.problem(folder))), None):
            raise StoreError(f"run {run_id} is damaged and cannot be sealed: {problem}; run its job again")
        budget = _bytes(memory_limit)
        work = _Seal(
            store.path, folder, manifest, by_token, budget, threads or os.cpu_count() or 1, coact_tokens, progress
        )
        with explain_full(folder):
            sealed = work.run()
        lease.check()
        fresh = manifest.changed(status="sealed", generation=manifest.generation + 1, sealed=sealed)
        fresh.write(folder)
        remove_unlisted(folder, fresh)
        return fresh.generation
    except BaseException:
        remove_unlisted(folder, read_manifest(folder))
        raise
    finally:
        lease.release()


@dataclass
class _Seal:
    """One sealing: everything it writes is unlisted until `run` has returned."""

    store: Path
    folder: Path
    manifest: Manifest
    by_token: bool
    budget: int
    threads: int
    coact_tokens: int
    progress: Progress | None

    def __post_init__(self) -> None:
        self.generation = self.manifest.generation + 1
        self.encoded = Encoded(
            tuple((s.tok_lo, s.tok_hi) for s in self.manifest.shards if s.codes and s.tok_hi > s.tok_lo)
        )

    def run(self) -> SealedIndex:
        scratch = self.folder / f"seal{TMP}"
        scratch.mkdir()
        corpus = corpora_folder(self.store) / (self.manifest.corpus_id or ".none")
        view = open_corpus(corpus, scratch) if self.encoded.ranges and corpus.is_dir() else None
        index = scratch / "index.duckdb"
        with self._database(index, scratch) as con:
            pages = Pages(con, self.manifest.run_id, self.manifest.corpus_id, view, self.encoded)
            codes = {dictionary: self._dictionary(dictionary, pages) for dictionary in self.manifest.dictionaries()}
            self._carry(pages)
        tables = {name: self._joined(name) for name in RUNS if any(name in s.tables for s in self.manifest.shards)}
        sync_file(index)
        rows = sum(entry.n_latents for entry in codes.values())
        path = names.index_file(self.generation)
        entry = FileEntry(path=path, rows=rows, bytes=index.stat().st_size, sha256=file_sha256(index))
        index.replace(self.folder / path)
        return SealedIndex(codes=codes, index=entry, tables=tables)

    @contextmanager
    def _database(self, index: Path, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
        con = duckdb.connect(":memory:")
        con.execute("SET enable_progress_bar = false")
        try:
            con.execute(f"SET memory_limit = '{self.budget // 2}B'")
            con.execute(f"SET threads = {self.threads}")
            con.execute(f"SET temp_directory = {literal(str(scratch / 'spill'))}")
            con.execute("SET preserve_insertion_order = true")
            con.execute(f"ATTACH {literal(str(index))} AS page (STORAGE_VERSION 'v1.5.0')")
            yield con
            con.execute("CHECKPOINT page")
            con.execute("DETACH page")
        finally:
            con.close()

    def _dictionary(self, dictionary: str, pages: Pages) -> SealedCodes:
        listed = [(s, s.codes[dictionary]) for s in self.manifest.shards if dictionary in s.codes]
        shards = ShardFiles([self.folder / file.path for _, file in listed])
        n_latents = self._n_latents(dictionary)
        counts = shards.counts(n_latents)
        if n_latents is not None and len(counts) > n_latents:
            raise StoreError(
                f"run {self.manifest.run_id} has codes beyond the {n_latents} latents of {dictionary}'s cfg.json"
            )
        size, total = bucket_size(counts), max(int(counts.sum()), 1)
        sample, files = TokenSample(self.encoded, self.coact_tokens), {}
        pages.begin(dictionary, len(counts))
        done = 0
        with ThreadPoolExecutor(WRITERS) as pool:
            for lo, hi in chunk_bounds(counts, size, min(MAX_CHUNK_ROWS, self.budget // 2 // BYTES_A_ROW)):
                chunk = shards.merge(lo, counts[lo:hi])
                writing = self._write_buckets(pool, dictionary, chunk, size)
                pages.add(chunk)
                sample.add(chunk)
                files |= {bucket: future.result() for bucket, future in writing.items()}
                done += len(chunk.tok)
                self._report(f"{dictionary}: features", done / total)
        pages.end()
        feature, tok, n_tokens = sample.result()
        pages.coact(feature, tok, n_tokens, feature_bounds(feature, tok))
        copies = ()
        if self.by_token:
            report = functools.partial(self._report, f"{dictionary}: by token")
            copies = write_by_token(self.folder, dictionary, self.generation, [file for _, file in listed], report)
        return SealedCodes(bucket_size=size, n_latents=len(counts), files=files, by_token=copies)

    def _write_buckets(
        self, pool: ThreadPoolExecutor, dictionary: str, chunk: Chunk, size: int
    ) -> dict[int, Future[FileEntry]]:
        return {
            bucket: pool.submit(
                write_parquet,
                self.folder,
                names.bucket_file(dictionary, bucket, self.generation),
                codes_table(codes),
                BY_FEATURE,
            )
            for bucket, codes in chunk.buckets(size)
        }

    def _n_latents(self, dictionary: str) -> int | None:
        return dictionary_row(self.store, dictionary).get("n_latents")

    def _joined(self, table: str) -> tuple[FileEntry, ...]:
        files = [s.tables[table] for s in self.manifest.shards if table in s.tables and s.tables[table].rows]
        return join(self.folder, table, self.generation, files, functools.partial(self._report, table))

    def _carry(self, pages: Pages) -> None:
        for name in ("feature_logits", "feature_neighbors"):
            files = [s.tables[name] for s in self.manifest.shards if name in s.tables]
            files += self.manifest.tables.get(name, {}).values()
            if files:
                pages.carry(name, parquet(self.folder, files))

    def _report(self, phase: str, share: float) -> None:
        if self.progress is not None:
            self.progress(phase, share)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def _bytes(text: str) -> int:
    """'4GB', '512MiB', ... as bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?|)B?\s*", text.upper())
    if match is None:
        raise StoreError(f"memory limit {text!r} is not an amount such as 4GB or 512MB")
    return int(float(match[1]) * _UNITS[match[2]])
