"""Any dictionary as a directory of the store.

SAELens' layout where SAELens has such a dictionary. The few others keep their parameters under their own names:
`cfg["sparse_rep"]` is what `describe()` says, weights.safetensors the state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sparse_rep.config_dictionary import ARCHITECTURES
from sparse_rep.errors import ConfigError
from sparse_rep.kernels import ops
from sparse_rep.saes.coder import Dictionary
from sparse_rep.saes.formats import sae_lens
from sparse_rep.saes.formats.directory import CFG, read_cfg, read_tensors, replaced, require_shapes
from sparse_rep.saes.registry import build_coder

NATIVE, STATE = "sparse_rep", "weights.safetensors"


def save_dictionary(
    dictionary: Dictionary, directory: Path, metadata: Mapping[str, Any], density: torch.Tensor | None = None
) -> None:
    """Write a dictionary; the directory appears whole or not at all.

    `metadata` goes into cfg.json's own. `density` (m), the share of tokens each latent fires on, becomes SAELens' log10
    sparsity file.
    """
    from safetensors.torch import save_file

    if sae_lens.architecture(dictionary) is None:
        cfg, weights, name = *_native(dictionary, metadata), STATE
    else:
        cfg, weights, name = *sae_lens.to_sae_lens(dictionary, metadata), sae_lens.WEIGHTS
    with replaced(directory) as part:
        save_file(weights, part / name)
        if density is not None:
            save_file({"sparsity": torch.log10(density.float().cpu() + 1e-10)}, part / sae_lens.SPARSITY)
        (part / CFG).write_text(json.dumps(cfg, indent=2, default=str))


def load_dictionary(directory: Path, backend: ops.Backend = "auto") -> Dictionary:
    """Read what `save_dictionary` wrote, or a SAELens directory.

    Raises ConfigError for an architecture we do not have and DataError where weights and cfg.json disagree.
    """
    cfg = read_cfg(directory)
    if NATIVE not in cfg:
        return sae_lens.from_sae_lens(cfg, directory, backend)
    described = dict(cfg[NATIVE])
    d_in, d_out = described.pop("d_in"), described.pop("d_out", None)
    if described.get("kind") not in ARCHITECTURES:
        raise ConfigError(f"{directory} holds a {described.get('kind')!r} dictionary, which this version does not know")
    dictionary: Dictionary = build_coder(ARCHITECTURES[described["kind"]].checked(described), d_in, backend, d_out)
    found = read_tensors(directory / STATE)
    require_shapes(directory / STATE, found, {key: tuple(t.shape) for key, t in _state(dictionary).items()})
    dictionary.load_state_dict(found, strict=False)
    return dictionary.eval().requires_grad_(False)


def _native(dictionary: Dictionary, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    described = dictionary.describe()
    cfg = {
        "architecture": f"{described['kind']}_transcoder",
        "d_in": dictionary.d_in,
        "d_sae": dictionary.n_latents,
        **({"k": described["k"]} if "k" in described else {}),
        NATIVE: described,
        "metadata": {"sparse_rep_kind": described["kind"], **metadata},
    }
    return cfg, {key: tensor.detach().cpu().contiguous() for key, tensor in _state(dictionary).items()}


def _state(dictionary: Dictionary) -> dict[str, Any]:
    """The state that codes depend on: all but the count of when latents fired."""
    return {name: t for name, t in dictionary.state_dict().items() if not name.startswith("firing.")}
