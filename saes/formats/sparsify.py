"""sparsify's layout: cfg.json + sae.safetensors (checked against eai-sparsify 1.3.3). Read only.

A hook point's folder, or a checkpoint with one of them in it.
"""

from __future__ import annotations

from pathlib import Path

import torch

from sparse_rep.config_dictionary import TopKConfig
from sparse_rep.errors import ConfigError
from sparse_rep.kernels import ops
from sparse_rep.saes.formats.directory import CFG, read_cfg, read_tensors, require_shapes
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.topk import TopK

WEIGHTS = "sae.safetensors"


def is_sparsify(directory: Path) -> bool:
    return (directory / WEIGHTS).is_file()


def from_sparsify(directory: Path, backend: ops.Backend = "auto") -> TopK:
    """A TopK dictionary or transcoder.

    Raises ConfigError for its other activation function and DataError where weights and cfg.json disagree.
    """
    cfg, path = read_cfg(directory), directory / WEIGHTS
    if cfg.get("activation", "topk") != "topk":
        raise ConfigError(f"{directory} selects by {cfg['activation']!r}; only sparsify's topk can be read")
    d, m = cfg["d_in"], cfg.get("num_latents") or cfg["d_in"] * cfg["expansion_factor"]
    skip, transcodes = cfg.get("skip_connection", False), cfg.get("transcode", False)
    if skip and not transcodes:
        raise ConfigError(f"{directory} adds its input to its own reconstruction (skip_connection without transcode)")
    weights = {name: tensor.float() for name, tensor in read_tensors(path).items()}
    expected = {"encoder.weight": (m, d), "encoder.bias": (m,), "W_dec": (m, d), "b_dec": (d,)}
    require_shapes(path, weights, {**expected, "W_skip": (d, d)} if skip else expected)
    config = TopKConfig.checked({"n_latents": m, "k": cfg["k"], "skip": skip})
    dictionary: TopK = build_coder(config, d, backend, d if transcodes else None)
    with torch.no_grad():
        dictionary.W_enc.copy_(weights["encoder.weight"])
        dictionary.b_enc.copy_(weights["encoder.bias"])
        dictionary.W_dec.copy_(weights["W_dec"])
        dictionary.b_dec.copy_(weights["b_dec"])
        if dictionary.W_skip is not None:
            dictionary.W_skip.copy_(weights["W_skip"])
    return dictionary.eval().requires_grad_(False)


def hook_folder(directory: Path) -> Path:
    """The folder with the weights: `directory` itself, or the one hook point's folder in it.

    Raises ConfigError where there are several to choose from.
    """
    if is_sparsify(directory):
        return directory
    found = sorted(path.parent for path in directory.glob(f"*/{WEIGHTS}") if (path.parent / CFG).is_file())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ConfigError(f"{directory} holds several dictionaries; name one of its folders: {names}")
    return found[0] if found else directory
