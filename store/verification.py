"""Reading everything back: does each file still hold the bytes that its manifest promised?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_rep.store.atomic import file_sha256
from sparse_rep.store.catalog import dictionary_row, read_run
from sparse_rep.store.corpus import corpora_folder, corpus_ids, read_corpus
from sparse_rep.store.errors import StoreError
from sparse_rep.store.manifest import FileEntry, content_hash

if TYPE_CHECKING:
    from sparse_rep.store.store import Store


@dataclass(frozen=True)
class Problem:
    """Something in the store that is not as it was written."""

    where: str
    """run, corpus or dictionary, with its id."""
    what: str
    """One sentence."""


def verify(store: Store, run_id: str | None = None, *, report: Callable[[str], None] | None = None) -> list[Problem]:
    """Check one run, or every run, corpus and dictionary: files present, sizes, sha256, content hash.

    `report` is called with the name of what is looked at next.

    Raises:
        StoreError: there is no such run.
    """
    say = report or (lambda _: None)
    if run_id is not None:
        store.run_path(run_id)
        say(f"run {run_id}")
        return list(_run(store.path, run_id))
    problems = []
    for run in store.run_ids():
        say(f"run {run}")
        problems += _run(store.path, run)
    for corpus in corpus_ids(store.path):
        say(f"corpus {corpus}")
        problems += _corpus(store.path, corpus)
    for path in sorted((store.path / "dictionaries").glob("[!.]*")):
        row = dictionary_row(store.path, path.name)
        if row["kind"] == "damaged":
            problems.append(Problem(f"dictionary {path.name}", row["model_note"]))
    return problems


def _run(store: Path, run_id: str) -> Iterator[Problem]:
    where = f"run {run_id}"
    record = read_run(store / "runs" / run_id)
    if record.config is None:
        yield Problem(where, "config.json is missing or cannot be read")
    if record.manifest is None:
        yield Problem(where, record.problem or "manifest.json cannot be read")
        return
    if record.manifest.content_hash != content_hash(record.manifest.shards):
        yield Problem(where, "the content hash is not that of the shards: manifest.json was edited")
    yield from _files(where, record.folder, record.manifest.files())


def _corpus(store: Path, corpus_id: str) -> Iterator[Problem]:
    folder = corpora_folder(store) / corpus_id
    try:
        record = read_corpus(folder)
    except StoreError as error:
        yield Problem(f"corpus {corpus_id}", str(error))
        return
    yield from _files(f"corpus {corpus_id}", folder, record.files.values())


def _files(where: str, folder: Path, files: Iterable[FileEntry]) -> Iterator[Problem]:
    for file in files:
        if problem := file.problem(folder):
            yield Problem(where, problem)
        elif file_sha256(folder / file.path) != file.sha256:
            yield Problem(where, f"{file.path} has other bytes than were written (sha256 differs)")
