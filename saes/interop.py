"""Dictionaries on disk, in SAELens' layout: cfg.json + sae_weights.safetensors (checked against sae-lens 6.54).

Written here without sae-lens, so that no other library is needed to make what others can read. Scaling is folded into the
biases on the way out: a saved dictionary takes raw activations and gives codes in their units.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from sparse_rep.config import TopKConfig
from sparse_rep.errors import ConfigError, DataError
from sparse_rep.kernels import ops
from sparse_rep.saes.coder import Dictionary
from sparse_rep.saes.topk import TopK

CFG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"

# Below 6.0 its loader takes a file for an older layout and rewrites it.
SAE_LENS_VERSION = "6.54.12"


def save_sae_lens(
    dictionary: TopK, directory: Path, metadata: dict[str, Any], density: torch.Tensor | None = None
) -> None:
    """Write a dictionary so that `sae_lens.SAE.load_from_disk(directory)` gives the same codes.

    `metadata` goes into cfg.json's own metadata (sae-lens keeps keys it does not know). `density` (m), the share of tokens
    each latent fires on, becomes sae-lens' log10 sparsity file. The directory appears whole or not at all.
    """
    from safetensors.torch import save_file

    part = directory.with_name(f".{directory.name}.tmp-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    folded = dictionary.folded()
    weights = {"W_enc": folded.W_enc.T, "b_enc": folded.b_enc, "W_dec": folded.W_dec, "b_dec": folded.b_dec}
    save_file({name: w.detach().float().cpu().contiguous() for name, w in weights.items()}, part / WEIGHTS)
    if density is not None:
        save_file({"sparsity": torch.log10(density.float().cpu() + 1e-10)}, part / SPARSITY)
    cfg = {
        "architecture": "topk",
        "d_in": dictionary.d_in,
        "d_sae": dictionary.n_latents,
        "k": dictionary.k,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {"sae_lens_version": SAE_LENS_VERSION, "sparse_rep_kind": dictionary.config.kind, **metadata},
    }
    (part / CFG).write_text(json.dumps(cfg, indent=2, default=str))
    shutil.rmtree(directory, ignore_errors=True)
    part.rename(directory)


def read_cfg(directory: Path) -> dict[str, Any]:
    """cfg.json of a saved dictionary. Raises ConfigError where there is none."""
    path = directory / CFG
    if not path.is_file():
        raise ConfigError(f"no dictionary at {directory}: {CFG} is not there; `sparse-rep train` makes one")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error


def load_sae_lens(directory: Path, backend: ops.Backend = "auto") -> Dictionary:
    """Read a dictionary written by `save_sae_lens` or by sae-lens itself (architecture topk).

    Raises ConfigError for an architecture we cannot read and DataError where weights and cfg.json disagree.
    """
    from safetensors.torch import load_file

    cfg = read_cfg(directory)
    if cfg.get("architecture") != "topk":
        raise ConfigError(f"{directory} holds a {cfg.get('architecture')!r} dictionary; only 'topk' can be read so far")
    if not cfg.get("apply_b_dec_to_input", True) or cfg.get("normalize_activations", "none") != "none":
        raise ConfigError(f"{directory}: fold activation normalisation and b_dec into the weights before loading")
    try:
        weights = load_file(directory / WEIGHTS)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {directory / WEIGHTS}: {error}") from error
    d_in, n_latents = cfg["d_in"], cfg["d_sae"]
    expected = {"W_enc": (d_in, n_latents), "b_enc": (n_latents,), "W_dec": (n_latents, d_in), "b_dec": (d_in,)}
    for name, shape in expected.items():
        if name not in weights or tuple(weights[name].shape) != shape:
            found = tuple(weights[name].shape) if name in weights else "nothing"
            raise DataError(f"{directory / WEIGHTS}: {name} should be {shape} by {CFG}, found {found}")
    norms = weights["W_dec"].norm(dim=-1)
    dictionary = TopK(TopKConfig(n_latents=n_latents, k=cfg["k"]), d_in, backend)
    with torch.no_grad():
        encoder, bias = weights["W_enc"].T, weights["b_enc"]
        if cfg.get("rescale_acts_by_decoder_norm"):
            # sae-lens then ranks and reports activations times the atom's norm: fold it into the encoder, unit atoms.
            encoder, bias = encoder * norms[:, None], bias * norms
            weights["W_dec"] = weights["W_dec"] / norms[:, None]
        dictionary.W_enc.copy_(encoder)
        dictionary.b_enc.copy_(bias)
        dictionary.W_dec.copy_(weights["W_dec"])
        dictionary.b_dec.copy_(weights["b_dec"])
    return dictionary.eval().requires_grad_(False)
