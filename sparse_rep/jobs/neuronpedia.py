"""Neuronpedia's bulk export: the folders that its importer reads, filled from a sealed run.

Names of files and fields are SAEDashboard's (`sae_dashboard/neuronpedia/neuronpedia_export.py`). Neuronpedia takes the columns
of a file from its first row, refuses an empty file, and has every row of release, model, sourceset and source made by
an ORM that knows no other fields than these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from sparse_rep import __version__
from sparse_rep.errors import ConfigError
from sparse_rep.jobs.dictionaries import Source
from sparse_rep.jobs.naming import model_name, slug
from sparse_rep.jobs.publishing import chosen, new_folder, sealed_run
from sparse_rep.progress import Reporter
from sparse_rep.saes.formats import stored
from sparse_rep.saes.formats.directory import read_cfg
from sparse_rep.store import Manifest, Store
from sparse_rep.store.queries import queries
from sparse_rep.store.views import literal

FEATURES_A_BATCH = 128
TOKENS_BEFORE, TOKENS_AFTER = 47, 16
"""Of each example's text, within its document: 64 tokens with its own."""

DEFAULT_CREATOR = "clkht01d40000jv08hvalcvly"
"""The user that SAEDashboard's exporter names where none is given."""


@dataclass(frozen=True)
class Labels:
    """What things are called on Neuronpedia; what is None is derived from the dictionary."""

    model: str | None = None
    """Id of the model, e.g. gpt2-small."""
    source_set: str | None = None
    """Dictionaries of one kind at several layers, e.g. res-jb."""
    creator: str = "sparse-rep"
    """Name shown beside the release."""
    creator_id: str = DEFAULT_CREATOR
    """A user that the Neuronpedia instance knows."""


@dataclass(frozen=True)
class Page:
    """One source of Neuronpedia: a dictionary as a run saw it."""

    source: Source
    manifest: Manifest
    labels: Labels
    model: str
    source_set: str
    layer: int
    metadata: dict[str, Any]
    config: dict[str, Any]
    """Of the run."""

    @property
    def id(self) -> str:
        return f"{self.layer}-{self.source_set}"

    @property
    def created(self) -> str:
        """With its zone: without, a reader would take it for the reader's own."""
        return self.manifest.updated.isoformat(timespec="milliseconds") + "Z"


def publish_neuronpedia(
    store: Store,
    out: Path,
    reporter: Reporter,
    *,
    dictionaries: Sequence[str] | None = None,
    run: str | None = None,
    labels: Labels | None = None,
) -> list[dict[str, Any]]:
    """Write {out}/{model}/{layer}-{source_set}/ for each dictionary, a batch of features at a time.

    Raises ConfigError for a hook without a layer or two dictionaries of one name, StoreError where a dictionary has no
    sealed run.
    """
    pages = [_page(store, source, run, labels or Labels()) for source in chosen(store, dictionaries)]
    taken: dict[str, str] = {}
    for page in pages:
        other = taken.setdefault(f"{page.model}/{page.id}", page.source.dictionary_id)
        if other != page.source.dictionary_id:
            raise ConfigError(
                f"{other} and {page.source.dictionary_id} would both be {page.model}/{page.id}: "
                "leave --source-set out, or export them one by one"
            )
    with new_folder(out) as folder, closing(store.connect()) as con:
        for name in ("neuronpedia.significant", "neuronpedia.storable"):
            con.execute(queries()[name].sql)
        return [_write(con, page, folder / page.model / page.id, reporter) for page in pages]


def _page(store: Store, source: Source, run: str | None, labels: Labels) -> Page:
    found = re.match(r"blocks\.(\d+)\.", source.hook)
    if found is None:
        raise ConfigError(
            f"dictionary {source.dictionary_id} reads {source.hook!r}, which names no layer; Neuronpedia files by layer"
        )
    manifest = sealed_run(store, source.dictionary_id, run)
    row = store.query("SELECT config FROM runs WHERE run_id = $run", run=manifest.run_id).to_pylist()[0]
    return Page(
        source=source,
        manifest=manifest,
        labels=labels,
        model=slug(labels.model or model_name(source.model or manifest.model or "model")),
        source_set=slug(labels.source_set or source.dictionary_id).lower(),
        layer=int(found[1]),
        metadata=read_cfg(source.directory).get("metadata", {}),
        config=json.loads(row["config"] or "{}"),
    )


def _write(con: duckdb.DuckDBPyConnection, page: Page, folder: Path, reporter: Reporter) -> dict[str, Any]:
    coder = stored.load_dictionary(page.source.directory)
    atoms = coder.atoms.detach().float().cpu().numpy()
    for name in ("features", "activations"):
        (folder / name).mkdir(parents=True)
    for name, row in _metadata_rows(page, coder.describe()["kind"], coder.n_latents).items():
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    shared = {
        "run": page.manifest.run_id,
        "dictionary": page.source.dictionary_id,
        "model": page.model,
        "layer": page.id,
        "creator": page.labels.creator_id,
        "created": page.created,
    }
    named = {"hook": page.metadata.get("hook_name_out") or page.source.hook, "source_set": page.source_set}
    text = {
        "corpus": page.manifest.corpus_id,
        "n_tokens": page.manifest.n_tokens,
        "before": TOKENS_BEFORE,
        "after": TOKENS_AFTER,
    }
    examples = 0
    with reporter.task(page.id, len(atoms), "features") as advance:
        for number, first in enumerate(range(0, len(atoms), FEATURES_A_BATCH)):
            batch = atoms[first : first + FEATURES_A_BATCH]
            con.register("atoms", _table(batch, first))
            shared |= {"first": first, "last": first + len(batch) - 1}
            name = f"batch-{number}.jsonl.gz"
            n = _copy(con, "neuronpedia.features", folder / "features" / name, {**shared, **named})
            assert n == len(batch), f"{n} rows for {len(batch)} features"
            examples += _copy(con, "neuronpedia.activations", folder / "activations" / name, {**shared, **text})
            con.unregister("atoms")
            advance(len(batch))
    return {
        "dictionary_id": page.source.dictionary_id,
        "run_id": page.manifest.run_id,
        "source": f"{page.model}/{page.id}",
        "n_features": len(atoms),
        "n_examples": examples,
    }


def _copy(con: duckdb.DuckDBPyConnection, name: str, path: Path, params: dict[str, Any]) -> int:
    """Rows of a named query as gzipped JSON lines; no file where there are none, as among nothing but dead features."""
    copy = f"COPY ({queries()[name].sql}) TO {literal(str(path))} (FORMAT json, COMPRESSION gzip)"
    counted = con.execute(copy, params).fetchone()
    assert counted is not None
    if counted[0] == 0:
        path.unlink(missing_ok=True)
    return counted[0]


def _table(atoms: np.ndarray, first: int) -> pa.Table:
    """Decoder rows (b, d) as the table `atoms`."""
    features = pa.array(np.arange(first, first + len(atoms), dtype=np.uint32))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(atoms.reshape(-1)), atoms.shape[1])
    return pa.table({"feature": features, "vector": vectors.cast(pa.list_(pa.float32()))})


def _metadata_rows(page: Page, kind: str, n_latents: int) -> dict[str, dict[str, Any]]:
    """The one row of release.jsonl, model.jsonl, sourceset.jsonl and source.jsonl."""
    note = page.metadata.get("sparse_rep_model_note")
    model = f"{page.model} ({note})" if note else page.model
    about = f"{kind} dictionary of {n_latents:,} latents at {page.source.hook} of {model}"
    context = (page.config.get("text") or {}).get("context")
    n_tokens = page.manifest.n_tokens
    owned = {"creatorId": page.labels.creator_id, "createdAt": page.created}
    return {
        "release": {
            "name": page.source_set,
            "description": about,
            "descriptionShort": page.source_set,
            "creatorName": page.labels.creator,
            "creatorNameShort": page.labels.creator,
            "creatorEmail": None,
            "urls": [],
            "visibility": "PUBLIC",
            "isNewUi": False,
            "featured": False,
            "defaultSourceSetName": None,
            "defaultSourceId": None,
            "defaultUmapSourceIds": [],
            **owned,
        },
        "model": {
            "id": page.model,
            "instruct": bool(re.search(r"-(it|instruct)$", page.model, re.IGNORECASE)),
            "displayNameShort": page.model,
            "displayName": model,
            "tlensId": None,
            "dimension": None,
            "visibility": "PUBLIC",
            "defaultSourceSetName": None,
            "defaultSourceId": None,
            "inferenceEnabled": False,
            "layers": 0,
            "neuronsPerLayer": 0,
            "owner": "",
            "website": None,
            "updatedAt": page.created,
            **owned,
        },
        "sourceset": {
            "modelId": page.model,
            "name": page.source_set,
            "hasDashboards": True,
            "visibility": "PUBLIC",
            "description": about,
            "type": "",
            "creatorName": page.labels.creator,
            "creatorEmail": None,
            "urls": [],
            "releaseName": page.source_set,
            "defaultOfModelId": None,
            "defaultRange": 1,
            "defaultShowBreaks": True,
            "showDfa": False,
            "showCorrelated": False,
            "showHeadAttribution": False,
            "showUmap": False,
            **owned,
        },
        "source": {
            "id": page.id,
            "modelId": page.model,
            "setName": page.source_set,
            "hasDashboards": True,
            "inferenceEnabled": False,
            "inferenceHosts": [],
            "saelensConfig": None,
            "saelensRelease": None,
            "saelensSaeId": None,
            "hfRepoId": None,
            "hfFolderId": None,
            "visibility": "PUBLIC",
            "defaultOfModelId": None,
            "hasUmap": False,
            "hasUmapLogSparsity": False,
            "hasUmapClusters": False,
            "num_prompts": None if context is None else -(-n_tokens // context),
            "num_tokens_in_prompt": context,
            "dataset": ",".join((page.config.get("text") or {}).get("sources", [])) or page.manifest.corpus_id,
            "notes": f"sparse-rep {__version__}: {about}; run {page.manifest.run_id} over {n_tokens:,} tokens",
            **owned,
        },
    }
