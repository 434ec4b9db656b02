"""Dictionaries to be used: found in the store or at a path, and loaded beside the model that they were made for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparse_rep.errors import ConfigError
from sparse_rep.hosting.model import HostedModel
from sparse_rep.kernels import ops
from sparse_rep.saes.coder import Dictionary
from sparse_rep.saes.formats import stored
from sparse_rep.saes.formats.directory import read_cfg
from sparse_rep.store import Store


@dataclass(frozen=True)
class Source:
    """A dictionary to be used: where it lies and what it was made for."""

    dictionary_id: str
    directory: Path
    hook: str
    model: str | None


@dataclass(frozen=True)
class Loaded:
    """A dictionary ready to encode, and where in the model it reads."""

    dictionary_id: str
    hook: str
    coder: Dictionary


def find_dictionary(store: Store, spec: str) -> Source:
    """A dictionary by its id in the store, or by the path of a SAELens directory."""
    inside = store.path / "dictionaries" / spec
    directory = inside if inside.is_dir() else Path(spec).expanduser()
    if not directory.is_dir():
        known = sorted(p.name for p in (store.path / "dictionaries").glob("*/"))
        raise ConfigError(
            f"no dictionary {spec!r}: it is neither in {store.path / 'dictionaries'} "
            f"(there: {', '.join(known) or 'none'}) nor a directory; `sparse-rep train` makes one"
        )
    metadata = read_cfg(directory).get("metadata", {})
    hook = metadata.get("hook_name")
    if not hook:
        raise ConfigError(f"{directory}/cfg.json does not say which hook it reads (metadata.hook_name)")
    return Source(directory.name, directory, hook, metadata.get("model_name"))


def load_dictionary(source: Source, model: HostedModel, kernels: ops.Backend) -> Loaded:
    """Raises ConfigError for a hook that the model lacks or another width."""
    model.check(source.hook)
    coder = stored.load_dictionary(source.directory, kernels)
    if coder.d_in != model.width(source.hook):
        raise ConfigError(
            f"dictionary {source.dictionary_id} takes {coder.d_in} dimensions, but {source.hook} of "
            f"{model.origin.name} has {model.width(source.hook)}"
        )
    device = next(model.model.parameters()).device
    return Loaded(source.dictionary_id, source.hook, coder.to(device))
