"""What is in a store: its runs, dictionaries and corpora as their own files describe them, damaged ones named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sparse_rep.store.corpus import CorpusRecord, corpora_folder, corpus_ids, read_corpus
from sparse_rep.store.errors import StoreError
from sparse_rep.store.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class RunRecord:
    """A run as it was found. `problem` says why it cannot be read; then it has no data in any view."""

    run_id: str
    folder: Path
    manifest: Manifest | None
    config: str | None
    """The frozen config as JSON text."""
    problem: str | None = None

    def row(self) -> dict[str, Any]:
        """The run's row in the view `runs`."""
        m = self.manifest
        return {
            "run_id": self.run_id,
            "kind": m and m.kind,
            "name": m and m.name,
            "status": "damaged" if self.problem else m and m.status,
            "corpus_id": m and m.corpus_id,
            "model": m and m.model,
            "model_revision": m and m.model_revision,
            "config_hash": m and m.config_hash,
            "content_hash": m and m.content_hash,
            "code_version": m and m.code_version,
            "kernel": m and m.kernel,
            "created": m and m.created,
            "updated": m and m.updated,
            "n_shards": m and len(m.shards),
            "n_shards_planned": m and m.n_shards_planned,
            "n_rows": m and m.n_rows,
            "n_tokens": m and m.n_tokens,
            "bytes": m and sum(file.bytes for file in m.code_files()),
            "note": self.problem or (m and m.note),
            "config": self.config,
        }


def run_ids(store: Path) -> list[str]:
    """Folders of runs, readable or not."""
    return sorted(path.name for path in (store / "runs").glob("[!.]*") if path.is_dir())


def read_run(folder: Path) -> RunRecord:
    """A run and whether every file it lists is there in full size."""
    try:
        config = json.dumps(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("config"))
    except (OSError, ValueError, AttributeError):
        config = None
    try:
        manifest = read_manifest(folder)
    except StoreError as error:
        return RunRecord(folder.name, folder, None, config, str(error))
    problem = next((p for file in manifest.files() if (p := file.problem(folder))), None)
    if problem and read_manifest(folder) != manifest:
        return read_run(folder)  # sealed between our two looks
    return RunRecord(folder.name, folder, manifest, config, problem)


def read_runs(store: Path, only: Iterable[str] | None = None) -> list[RunRecord]:
    """The runs of a store, or some of them.

    Raises:
        StoreError: one of `only` is not there.
    """
    present = run_ids(store)
    wanted = present if only is None else list(only)
    if missing := sorted(set(wanted) - set(present)):
        raise StoreError(f"there is no run {missing[0]!r} in {store}; it has {', '.join(present) or 'none'}")
    return [read_run(store / "runs" / run) for run in wanted]


def read_corpora(store: Path) -> list[CorpusRecord]:
    """Corpora that can be read."""
    found = []
    for corpus in corpus_ids(store):
        try:
            found.append(read_corpus(corpora_folder(store) / corpus))
        except StoreError:
            continue  # named by `verify`
    return found


def read_dictionaries(store: Path) -> list[dict[str, Any]]:
    """Rows of the view `dictionaries`, from each cfg.json (SAELens' format; our own facts are under metadata.sparse_rep_*)."""
    return [dictionary_row(store, path.parent.name) for path in sorted((store / "dictionaries").glob("[!.]*/cfg.json"))]


def dictionary_row(store: Path, dictionary_id: str) -> dict[str, Any]:
    """What a dictionary's cfg.json says, as a row of the view; unreadable or missing, it says so in `model_note`."""
    path = store / "dictionaries" / dictionary_id / "cfg.json"
    try:
        cfg = json.loads(path.read_text(encoding="utf-8"))
        meta = cfg.get("metadata") or {}
        return {
            "dictionary_id": dictionary_id,
            "kind": meta.get("sparse_rep_kind") or cfg.get("architecture"),
            "model": meta.get("model_name"),
            "model_revision": meta.get("sparse_rep_model_revision"),
            "model_note": meta.get("sparse_rep_model_note"),
            "hook": meta.get("hook_name"),
            "d_in": _count(cfg.get("d_in")),
            "n_latents": _count(cfg.get("d_sae")),
            "k": _count(cfg.get("k", (meta.get("sparse_rep_dictionary") or {}).get("k"))),
            "trained_by": meta.get("sparse_rep_run_id"),
            "created": _time(meta.get("sparse_rep_created")),
            "cfg": json.dumps(cfg),
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return {"dictionary_id": dictionary_id, "kind": "damaged", "model_note": f"cfg.json cannot be read: {error}"}


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=None)


def generation(store: Path) -> str:
    """Changes when a manifest, a dictionary's cfg.json or a corpus does; costs a stat a file."""
    digest = hashlib.sha256()
    for pattern in ("runs/*/manifest.json", "dictionaries/*/cfg.json", "corpora/*/corpus.json"):
        for path in sorted(store.glob(pattern)):
            try:
                stat = path.stat()
            except OSError:
                continue
            digest.update(f"{path.relative_to(store)} {stat.st_mtime_ns} {stat.st_size} {stat.st_ino}\n".encode())
    return digest.hexdigest()[:16]
