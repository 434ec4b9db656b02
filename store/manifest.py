"""`manifest.json`: the only list of what a run holds. A file that it does not list does not exist for anybody."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sparse_rep.store.atomic import write_text
from sparse_rep.store.errors import StoreDamaged, StoreError
from sparse_rep.store.schema import SCHEMA_VERSION


class Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FileEntry(Entry):
    """A file that is whole on disk."""

    path: str
    """Relative to the run's folder."""
    rows: int
    bytes: int
    sha256: str

    def problem(self, folder: Path) -> str | None:
        """What is wrong with the file, judged by its size; `verify` also reads it."""
        try:
            size = (folder / self.path).stat().st_size
        except OSError:
            return f"{self.path} is missing"
        return None if size == self.bytes else f"{self.path} holds {size:,} bytes, the manifest says {self.bytes:,}"


class ShardEntry(Entry):
    """Corpus tokens [tok_lo, tok_hi), committed whole. Once the run is sealed the code files live on in buckets, big tables in
    joined files, and only their figures stay here, for the record."""

    name: str
    tok_lo: int
    tok_hi: int
    codes: dict[str, FileEntry] = {}
    """By dictionary."""
    activations: dict[str, FileEntry] = {}
    """By hook."""
    tables: dict[str, FileEntry] = {}

    @property
    def n_rows(self) -> int:
        return sum(file.rows for file in self.codes.values())


class SealedCodes(Entry):
    """Codes of one dictionary, sorted by (feature, tok) over all shards."""

    bucket_size: int
    """Features a file: feature f is in the file of bucket f // bucket_size. A power of two."""
    n_latents: int
    files: dict[int, FileEntry]
    """By bucket; buckets without codes have no file."""
    by_token: tuple[FileEntry, ...] = ()
    """The same codes sorted by (tok, feature), when asked for."""


class SealedIndex(Entry):
    codes: dict[str, SealedCodes]
    index: FileEntry
    tables: dict[str, tuple[FileEntry, ...]] = {}
    """Tables whose shards were joined."""


class Manifest(Entry):
    """State of one run. Replaced as a whole, never edited in place."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    kind: str
    name: str
    status: Literal["live", "complete", "failed", "sealed"] = "live"
    generation: int = 0
    """Counts seals; names the index file, so that nobody reads a new index through an old handle."""
    config_hash: str
    corpus_id: str | None = None
    model: str | None = None
    model_revision: str | None = None
    kernel: str | None = None
    code_version: str | None = None
    n_shards_planned: int | None = None
    n_tokens_planned: int | None = None
    note: str | None = None
    created: datetime
    updated: datetime
    facts: dict[str, Any] = {}
    shards: tuple[ShardEntry, ...] = ()
    tables: dict[str, dict[str, FileEntry]] = {}
    """Whole tables, by name and part."""
    sealed: SealedIndex | None = None
    content_hash: str | None = None

    def files(self) -> Iterator[FileEntry]:
        """Every file that has to be there."""
        for shard in self.shards:
            yield from shard.activations.values()
            yield from (file for name, file in shard.tables.items() if name not in self.joined)
            if self.sealed is None:
                yield from shard.codes.values()
        for parts in self.tables.values():
            yield from parts.values()
        yield from (file for files in self.joined.values() for file in files)
        if self.sealed is not None:
            yield self.sealed.index
            for codes in self.sealed.codes.values():
                yield from codes.files.values()
                yield from codes.by_token

    @property
    def joined(self) -> dict[str, tuple[FileEntry, ...]]:
        """Tables whose rows lie in files of their own and no longer in the shards'."""
        return {} if self.sealed is None else self.sealed.tables

    def code_files(self) -> Iterator[FileEntry]:
        """The files that hold codes, one copy of each code."""
        if self.sealed is None:
            yield from (file for shard in self.shards for file in shard.codes.values())
        else:
            yield from (file for codes in self.sealed.codes.values() for file in codes.files.values())

    def dictionaries(self) -> list[str]:
        """Dictionaries with codes in this run."""
        return sorted({dictionary for shard in self.shards for dictionary in shard.codes})

    @property
    def n_tokens(self) -> int:
        return sum(shard.tok_hi - shard.tok_lo for shard in self.shards)

    @property
    def n_rows(self) -> int:
        return sum(shard.n_rows for shard in self.shards)

    def changed(self, **fields: Any) -> Manifest:
        """A copy with other fields, its time and its content hash brought up to date."""
        fields.setdefault("updated", now())
        fresh = self.model_copy(update=fields)
        return fresh.model_copy(update={"content_hash": content_hash(fresh.shards)})

    def write(self, folder: Path) -> None:
        write_text(folder / "manifest.json", self.model_dump_json(exclude_none=True) + "\n")


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def content_hash(shards: tuple[ShardEntry, ...]) -> str | None:
    """sha256 of the sorted (shard, dictionary or table, rows, sha256) of the files of codes and tables as they were committed.

    Sealing moves rows between files, so the hash is of the shards: the same run made twice, here or on a cluster, sealed
    or not, has the same one. None while there are none.
    """
    rows = sorted(
        (shard.name, name, file.rows, file.sha256)
        for shard in shards
        for name, file in (*shard.codes.items(), *((f"tables/{t}", file) for t, file in shard.tables.items()))
    )
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest() if rows else None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the run in `folder`.

    Raises:
        StoreDamaged: it is missing, not JSON or lacks fields.
        StoreError: it was written by a newer version.
    """
    path = folder / "manifest.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreDamaged(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise StoreDamaged(f"{path} cannot be read: {error}") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version}, this program knows {SCHEMA_VERSION}: upgrade sparse-rep"
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise StoreDamaged(f"{path} is not a manifest: {'.'.join(map(str, first['loc']))} {first['msg']}") from error
