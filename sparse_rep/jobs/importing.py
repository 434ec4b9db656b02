"""Dictionaries made elsewhere, brought into a store: from a directory, or from one of SAELens' public releases."""

from __future__ import annotations

import difflib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_rep import __version__
from sparse_rep.errors import ConfigError
from sparse_rep.jobs.naming import slug
from sparse_rep.progress import Reporter
from sparse_rep.saes.coder import Dictionary
from sparse_rep.saes.formats import dictionary_learning, sparsify, stored
from sparse_rep.saes.formats.directory import read_cfg, read_json
from sparse_rep.saes.formats.sae_lens import dictionary_of
from sparse_rep.store import Store

RELEASE = "saelens:"


@dataclass(frozen=True)
class Found:
    """A dictionary as it was read, and what its files say of where it belongs."""

    dictionary: Dictionary
    name: str
    layout: str
    metadata: dict[str, Any]


def import_dictionary(
    store: Store, source: str, reporter: Reporter, *, name: str | None, model: str | None, hook: str | None
) -> dict[str, Any]:
    """Read a dictionary and save it under <store>/dictionaries. Returns its id and what it is.

    `model` and `hook` win over what the files say. Raises ConfigError where neither says it, or where the id is taken.
    """
    reporter.say(f"reading {source}")
    found = _released(source) if source.startswith(RELEASE) else _directory(Path(source).expanduser())
    metadata = {**found.metadata, **{k: v for k, v in (("model_name", model), ("hook_name", hook)) if v is not None}}
    for key, flag in (("model_name", "--model"), ("hook_name", "--hook")):
        if not metadata.get(key):
            raise ConfigError(f"{source} does not say its {key}; give {flag}, as for `sparse-rep train`")
    dictionary_id = slug(name or found.name)[-100:]
    directory = store.dictionary_path(dictionary_id)
    if directory.exists():
        raise ConfigError(f"{store.path} has a dictionary {dictionary_id} already; give another --name")
    made = {
        "sparse_rep_imported_from": source,
        "sparse_rep_layout": found.layout,
        "sparse_rep_version": __version__,
        "sparse_rep_created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    stored.save_dictionary(found.dictionary, directory, {**metadata, **made})
    described = found.dictionary.describe()
    return {
        "dictionary_id": dictionary_id,
        "kind": described["kind"],
        "d_in": found.dictionary.d_in,
        "n_latents": found.dictionary.n_latents,
        "model": metadata["model_name"],
        "hook": metadata["hook_name"],
    }


def _directory(path: Path) -> Found:
    if not path.is_dir():
        raise ConfigError(f"{path} is not a directory; name one, or saelens:RELEASE/ID for a public release")
    if dictionary_learning.is_dictionary_learning(path):
        return Found(
            dictionary_learning.from_dictionary_learning(path),
            _two_parts(path),
            "dictionary_learning",
            _places(dictionary_learning.trained_on(path)),
        )
    folder = sparsify.hook_folder(path)
    if sparsify.is_sparsify(folder):
        root = folder.parent / "config.json"
        model = read_json(root).get("model") if root.is_file() else None
        hook = _hook_of_module(folder.name)
        return Found(
            sparsify.from_sparsify(folder), _two_parts(folder), "sparsify", {"model_name": model, "hook_name": hook}
        )
    metadata = read_cfg(path).get("metadata") or {}
    return Found(stored.load_dictionary(path), path.resolve().name, "saelens", metadata)


def _released(source: str) -> Found:
    """By sae-lens' own directory of releases and its own converters."""
    try:
        from sae_lens import SAE
        from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
    except ImportError as error:
        raise ConfigError("releases are read through sae-lens: pip install 'sparse-rep[models]'") from error

    release, _, sae_id = source.removeprefix(RELEASE).partition("/")
    known = get_pretrained_saes_directory()
    if release not in known:
        near = difflib.get_close_matches(release, known, n=3, cutoff=0)
        raise ConfigError(f"sae-lens knows no release {release!r}; the nearest are {', '.join(near)}")
    ids = known[release].saes_map
    if sae_id not in ids:
        near = difflib.get_close_matches(sae_id, ids, n=3, cutoff=0)
        raise ConfigError(f"release {release} has no {sae_id!r}; the nearest of its {len(ids)} are {', '.join(near)}")
    try:
        sae = SAE.from_pretrained(release, sae_id)
    except OSError as error:
        raise ConfigError(f"{source} could not be downloaded ({type(error).__name__}): {error}") from error
    cfg = sae.cfg.to_dict()
    dictionary = dictionary_of(cfg, sae.state_dict(), Path(release) / sae_id)
    return Found(
        dictionary,
        f"{release}-{sae_id}",
        "saelens",
        {**cfg.get("metadata", {}), "sparse_rep_release": f"{release}/{sae_id}"},
    )


def _two_parts(path: Path) -> str:
    """A checkpoint's folder and the one in it: the latter alone (layers.3, trainer_0) says too little."""
    return "-".join(path.resolve().parts[-2:])


def _places(trainer: dict[str, Any]) -> dict[str, Any]:
    """dictionary_learning names a module or says only which layer's residual stream it read."""
    named = _hook_of_module(str(trainer.get("submodule_name") or ""))
    return {"model_name": trainer.get("lm_name"), "hook_name": named}


def _hook_of_module(name: str) -> str | None:
    """TransformerLens' name for what a module of a transformer puts out; None where that is not plain.

    `layers.3` or `resid_post_layer_3` is the residual stream after layer 3, `layers.3.mlp` what its MLP adds.
    """
    if found := re.fullmatch(r"(?:.*\.)?(?:layers|h|resid_post_layer)[._](\d+)", name):
        return f"blocks.{found[1]}.hook_resid_post"
    if found := re.fullmatch(r"(?:.*\.)?(?:layers|h)\.(\d+)\.mlp|mlp_out_layer_(\d+)", name):
        return f"blocks.{found[1] or found[2]}.hook_mlp_out"
    return None
