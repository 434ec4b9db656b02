"""Any dictionary as a directory: cfg.json that rebuilds the coder, and its weights.

A plain TopK dictionary is written in SAELens' layout. The others keep their own parameters under their own names until
they have a counterpart there: `cfg["sparse_rep"]` is what `describe()` says, weights.safetensors the state.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from sparse_rep.config_dictionary import ARCHITECTURES
from sparse_rep.errors import ConfigError, DataError
from sparse_rep.kernels import ops
from sparse_rep.saes.coder import Dictionary
from sparse_rep.saes.interop import CFG, load_sae_lens, read_cfg, save_sae_lens
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.topk import TopK

NATIVE, STATE = "sparse_rep", "weights.safetensors"


def save_dictionary(dictionary: Dictionary, directory: Path, metadata: dict[str, Any]) -> None:
    """Write a dictionary; the directory appears whole or not at all."""
    from safetensors.torch import save_file

    if isinstance(dictionary, TopK) and not dictionary.transcodes:
        save_sae_lens(dictionary, directory, metadata)
        return
    part = directory.with_name(f".{directory.name}.tmp-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in _weights(dictionary).items()}
    save_file(state, part / STATE)
    described = dictionary.describe()
    cfg = {
        "architecture": described["kind"],
        "d_in": dictionary.d_in,
        "d_sae": dictionary.n_latents,
        **({"k": described["k"]} if "k" in described else {}),
        NATIVE: described,
        "metadata": {"sparse_rep_kind": described["kind"], **metadata},
    }
    (part / CFG).write_text(json.dumps(cfg, indent=2, default=str))
    shutil.rmtree(directory, ignore_errors=True)
    part.rename(directory)


def load_dictionary(directory: Path, backend: ops.Backend = "auto") -> Dictionary:
    """Read what `save_dictionary` wrote, or a SAELens directory.

    Raises ConfigError for an architecture we do not have and DataError where weights and cfg.json disagree.
    """
    cfg = read_cfg(directory)
    if NATIVE not in cfg:
        return load_sae_lens(directory, backend)
    described = dict(cfg[NATIVE])
    d_in, d_out = described.pop("d_in"), described.pop("d_out", None)
    if described.get("kind") not in ARCHITECTURES:
        raise ConfigError(f"{directory} holds a {described.get('kind')!r} dictionary, which this version does not know")
    config = ARCHITECTURES[described["kind"]].checked(described)
    dictionary: Dictionary = build_coder(config, d_in, backend, d_out)
    _load_weights(dictionary, directory / STATE)
    return dictionary.eval().requires_grad_(False)


def _load_weights(dictionary: Dictionary, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    expected = _weights(dictionary)
    for name, tensor in expected.items():
        shape = tuple(found[name].shape) if name in found else "nothing"
        if shape != tuple(tensor.shape):
            raise DataError(f"{path}: {name} should be {tuple(tensor.shape)} by {CFG}, found {shape}")
    dictionary.load_state_dict(found, strict=False)


def _weights(dictionary: Dictionary) -> dict[str, Any]:
    """The state that codes depend on: all but the count of when latents fired."""
    return {name: t for name, t in dictionary.state_dict().items() if not name.startswith("firing.")}
