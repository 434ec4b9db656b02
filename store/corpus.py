"""Tokenised corpora: written once, shared by every run, so that dictionaries are compared on the same token ids."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from sparse_rep.errors import DataError
from sparse_rep.store.atomic import TMP, explain_full, sync_directory, write_text
from sparse_rep.store.columns import fit
from sparse_rep.store.errors import StoreDamaged, StoreError
from sparse_rep.store.manifest import Entry, FileEntry
from sparse_rep.store.names import checked
from sparse_rep.store.parquet import PLAIN, TOKENS, write_parquet
from sparse_rep.store.rows import unsigned
from sparse_rep.store.schema import SCHEMA_VERSION

WINDOW_ROWS = 65_536
"""Rows a row group of tokens: what a query for one context has to decode."""


class CorpusRecord(Entry):
    """`corpus.json`."""

    schema_version: int = SCHEMA_VERSION
    corpus_id: str
    n_tokens: int
    n_docs: int
    token_sha256: str
    """Of the token ids as little-endian uint32."""
    files: dict[str, FileEntry]
    meta: dict[str, Any]


def corpora_folder(store: Path) -> Path:
    return store / "corpora"


def put_corpus(
    store: Path,
    corpus_id: str,
    token_ids: NDArray[np.uint32],
    docs: Mapping[str, Any],
    vocab: Mapping[str, Any],
    meta: Mapping[str, Any],
) -> None:
    """Write a corpus in one step; writing the same one again does nothing.

    Raises:
        DataError: another text is there under this id, or documents reach beyond the tokens.
    """
    folder = corpora_folder(store) / checked("corpus", corpus_id)
    ids = unsigned("token_ids", token_ids)
    digest = hashlib.sha256(ids.astype("<u4").tobytes()).hexdigest()
    if _same_is_there(folder, digest):
        return
    fixed = {"corpus_id": None}
    documents, words = (
        fit(name, columns, fixed).drop_columns(["corpus_id"]) for name, columns in (("docs", docs), ("vocab", vocab))
    )
    ends = documents.column("tok_hi").to_numpy()
    if len(ends) and int(ends.max()) > len(ids):
        raise DataError(f"corpus {corpus_id}: documents reach to token {int(ends.max())} of {len(ids)}")
    tokens = pa.table({"tok": pa.array(np.arange(len(ids), dtype=np.uint32)), "token_id": pa.array(ids)})
    draft = corpora_folder(store) / f".{corpus_id}.{os.getpid()}{TMP}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with explain_full(folder):
            files = {
                "tokens": write_parquet(draft, "tokens.parquet", tokens, TOKENS, row_group=WINDOW_ROWS),
                "docs": write_parquet(draft, "docs.parquet", documents.sort_by("tok_lo"), PLAIN),
                "vocab": write_parquet(draft, "vocab.parquet", words.sort_by("token_id"), PLAIN),
            }
            record = CorpusRecord(
                corpus_id=corpus_id,
                n_tokens=len(ids),
                n_docs=documents.num_rows,
                token_sha256=digest,
                files=files,
                meta=json.loads(json.dumps(dict(meta), default=str)),
            )
            write_text(draft / "corpus.json", record.model_dump_json(indent=1) + "\n")
            try:
                draft.replace(folder)
            except OSError:  # somebody else was quicker
                if not _same_is_there(folder, digest):
                    raise
            sync_directory(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _same_is_there(folder: Path, digest: str) -> bool:
    if not (folder / "corpus.json").exists():
        return False
    if read_corpus(folder).token_sha256 != digest:
        raise DataError(f"corpus {folder.name} is in the store with other tokens: give this text another id")
    return True


def read_corpus(folder: Path) -> CorpusRecord:
    """The record of a corpus.

    Raises:
        StoreError: there is none, or a newer version wrote it.
        StoreDamaged: it cannot be read, or a file is missing or short.
    """
    path = folder / "corpus.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if int(data["schema_version"]) > SCHEMA_VERSION:
            raise StoreError(f"{path} was written by a newer sparse-rep: upgrade to read it")
        record = CorpusRecord.model_validate(data)
    except FileNotFoundError:
        raise StoreError(f"there is no corpus {folder.name!r} in {folder.parent.parent}") from None
    except (ValueError, KeyError, TypeError, OSError, ValidationError) as error:
        raise StoreDamaged(f"{path} cannot be read: {error}") from error
    for file in record.files.values():
        if problem := file.problem(folder):
            raise StoreDamaged(f"corpus {folder.name} is damaged: {problem}")
    return record


def corpus_ids(store: Path) -> list[str]:
    """Corpora that were written whole."""
    return sorted(path.parent.name for path in corpora_folder(store).glob("[!.]*/corpus.json"))


def token_ids(folder: Path) -> NDArray[np.uint32]:
    """Every token id (n_tokens) of a corpus."""
    read_corpus(folder)
    return pq.read_table(folder / "tokens.parquet", columns=["token_id"]).column("token_id").to_numpy()


def documents(folder: Path) -> pa.Table:
    """The documents of a corpus, in order of `tok_lo`."""
    read_corpus(folder)
    return pq.read_table(folder / "docs.parquet")
