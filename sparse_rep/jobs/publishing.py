"""Dictionaries handed on: which ones, with the numbers of which run, and SAELens' layout of a hub repository."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sparse_rep.errors import ConfigError
from sparse_rep.jobs.dictionaries import Source, find_dictionary
from sparse_rep.progress import Reporter
from sparse_rep.saes.formats import sae_lens, stored
from sparse_rep.saes.formats.directory import read_cfg, replaced
from sparse_rep.store import Manifest, Store, StoreError
from sparse_rep.store.atomic import explain_full


def chosen(store: Store, dictionaries: Iterable[str] | None) -> list[Source]:
    """The dictionaries named, or all of the store. Raises ConfigError for one that is not there, or where there is none."""
    ids = dictionaries if dictionaries is not None else sorted(p.name for p in (store.path / "dictionaries").glob("*/"))
    found = [find_dictionary(store, dictionary) for dictionary in dict.fromkeys(ids)]
    if not found:
        raise ConfigError(f"there is no dictionary to export in {store.path}: `sparse-rep train --store` makes one")
    return found


def sealed_run(store: Store, dictionary_id: str, run: str | None = None) -> Manifest:
    """The run whose numbers of a dictionary are handed on: `run`, or the newest sealed one.

    Raises StoreError where that is not sealed or lacks the dictionary, and says which command mends it.
    """
    if run is not None:
        manifest = store.manifest(run)
        if dictionary_id not in manifest.dictionaries():
            has = ", ".join(manifest.dictionaries()) or "none"
            raise StoreError(f"run {run} has no codes of dictionary {dictionary_id} (it has those of: {has})")
        if manifest.sealed is None:
            raise StoreError(f"run {run} is not sealed yet: `sparse-rep seal --store {store.path} {run}`")
        return manifest
    rows = store.query("SELECT run_id FROM runs WHERE status != 'damaged' ORDER BY updated DESC")
    with_codes = [m for r in rows["run_id"].to_pylist() if dictionary_id in (m := store.manifest(r)).dictionaries()]
    sealed = [manifest for manifest in with_codes if manifest.sealed is not None]
    if not with_codes:
        raise StoreError(
            f"{store.path} has no codes of dictionary {dictionary_id}: "
            f"`sparse-rep extract --store {store.path} --dictionaries {dictionary_id}`, then `sparse-rep seal`"
        )
    if not sealed:
        open_ = with_codes[0].run_id
        raise StoreError(
            f"no run with dictionary {dictionary_id} is sealed: `sparse-rep seal --store {store.path} {open_}`"
        )
    return sealed[0]


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which appears at `out` whole or not at all.

    Raises StoreError where something is there already, StoreFull where the disk has no room.
    """
    target = out.expanduser().absolute()
    if target.exists():
        raise StoreError(f"{target} is there already: remove it or choose another name")
    with explain_full(target), replaced(target) as part:
        yield part


def publish_saelens(
    store: Store, out: Path, reporter: Reporter, *, dictionaries: Sequence[str] | None = None, run: str | None = None
) -> list[dict[str, Any]]:
    """Write {out}/{dictionary_id}/ for each dictionary, and a model card: what `sae_lens.SAE.load_from_disk` loads, and
    `SAE.from_pretrained` once the folder is uploaded to a hub.

    Firing rates come from `run`, or from the newest sealed run; a dictionary without one goes without them. Returns what each
    folder is.

    Raises ConfigError for a dictionary that SAELens has no counterpart of.
    """
    sources = chosen(store, dictionaries)
    written: list[dict[str, Any]] = []
    with new_folder(out) as folder, reporter.task("saelens", len(sources), "dictionaries") as advance:
        for source in sources:
            coder = stored.load_dictionary(source.directory)
            architecture = sae_lens.architecture(coder)
            if architecture is None:
                raise ConfigError(
                    f"dictionary {source.dictionary_id} is a {coder.describe()['kind']} transcoder, which SAELens does not "
                    "have: name the others with --dictionaries"
                )
            metadata = read_cfg(source.directory).get("metadata", {})
            # Theirs may be older than the layout that is written here.
            kept = {key: value for key, value in metadata.items() if key != "sae_lens_version"}
            density, measured_by = _density(store, source.dictionary_id, run)
            stored.save_dictionary(coder, folder / source.dictionary_id, kept, density)
            written.append(
                {
                    "dictionary_id": source.dictionary_id,
                    "architecture": architecture,
                    "n_latents": coder.n_latents,
                    "hook": source.hook,
                    "model": source.model,
                    "note": metadata.get("sparse_rep_model_note"),
                    "run_id": measured_by,
                }
            )
            advance(1, source.dictionary_id)
        (folder / "README.md").write_text(_card(written), encoding="utf-8")
    return written


def _density(store: Store, dictionary_id: str, run: str | None) -> tuple[torch.Tensor | None, str | None]:
    """Share of tokens on which each latent fires (m), and the run that counted; neither where none did."""
    try:
        run_id = sealed_run(store, dictionary_id, run).run_id
    except StoreError:
        if run is not None:
            raise
        return None, None
    column = store.query(
        "SELECT frac_nonzero FROM features WHERE run_id = $run AND dictionary_id = $dictionary ORDER BY feature",
        run=run_id,
        dictionary=dictionary_id,
    )["frac_nonzero"]
    return torch.tensor(column.to_pylist()), run_id


def _card(written: list[dict[str, Any]]) -> str:
    rows = "\n".join(
        f"| `{w['dictionary_id']}` | {w['architecture']} | {w['n_latents']:,} | `{w['hook']}` | {w['model']}"
        f"{' (' + w['note'] + ')' if w['note'] else ''} |"
        for w in written
    )
    return f"""---
library_name: saelens
---

# Sparse dictionaries

| id | architecture | latents | hook | model |
|---|---|---|---|---|
{rows}

From a copy of this folder, or from the hub under the name of its repository:

```python
from sae_lens import SAE

sae = SAE.load_from_disk("{written[0]["dictionary_id"]}")
sae = SAE.from_pretrained("<user>/<repository>", "{written[0]["dictionary_id"]}")
```

`sparsity.safetensors`, where it is there, holds log10 of the share of tokens on which each latent fires. Where each dictionary
comes from is in its `cfg.json`, under `metadata`.
"""
