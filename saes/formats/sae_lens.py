"""SAELens' layout: cfg.json + sae_weights.safetensors (checked against sae-lens 6.54).

Written without sae-lens, so that no other library is needed to make what others can read. Scaling is folded into the weights
on the way out: a saved dictionary takes raw activations and gives codes in their units. What SAELens has no word for (which
architecture was trained, its hyper-parameters) lies under `metadata`, where it keeps keys that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_rep.config_dictionary import (
    ARCHITECTURES,
    DictionarySettings,
    GatedConfig,
    JumpReLUConfig,
    MPConfig,
    StandardConfig,
    TopKConfig,
)
from sparse_rep.errors import ConfigError
from sparse_rep.kernels import ops
from sparse_rep.saes.batchtopk import BatchTopK
from sparse_rep.saes.coder import Dictionary
from sparse_rep.saes.encoder import EncoderDictionary
from sparse_rep.saes.formats.directory import read_tensors, require_shapes
from sparse_rep.saes.gated import Gated
from sparse_rep.saes.jumprelu import JumpReLU
from sparse_rep.saes.matryoshka import Matryoshka
from sparse_rep.saes.mp import MatchingPursuit
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.topk import TopK

WEIGHTS, SPARSITY = "sae_weights.safetensors", "sparsity.safetensors"

# Below 6.0 its loader takes a file for an older layout and rewrites it.
VERSION = "6.54.12"

DESCRIBED, TYPICAL_NORM = "sparse_rep_dictionary", "sparse_rep_typical_norm"

ENCODERS = {
    "standard": StandardConfig,
    "topk": TopKConfig,
    "jumprelu": JumpReLUConfig,
    "gated": GatedConfig,
    "transcoder": StandardConfig,
    "skip_transcoder": StandardConfig,
    "jumprelu_transcoder": JumpReLUConfig,
    "jumprelu_skip_transcoder": JumpReLUConfig,
}
"""SAELens' architectures with an encoder matrix, and what each is here when nothing says how it was trained."""


def architecture(dictionary: Dictionary) -> str | None:
    """What SAELens calls it, None where it has no such thing: TopK and gated transcoders."""
    if isinstance(dictionary, MatchingPursuit):
        return "matching_pursuit"
    assert isinstance(dictionary, EncoderDictionary)
    name = "jumprelu" if isinstance(dictionary, BatchTopK | Matryoshka | JumpReLU) else dictionary.config.kind
    if not dictionary.transcodes:
        return name
    word = "transcoder" if dictionary.W_skip is None else "skip_transcoder"
    return {"standard": word, "jumprelu": f"jumprelu_{word}"}.get(name)


def to_sae_lens(dictionary: Dictionary, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """cfg.json and tensors that `sae_lens.SAE` loads as a coder with the same codes.

    Raises ConfigError for a dictionary without counterpart there.
    """
    name = architecture(dictionary)
    if name is None:
        raise ConfigError(
            f"SAELens has no {dictionary.describe()['kind']} transcoder: train --architecture standard, jumprelu or batchtopk"
        )
    cfg: dict[str, Any] = {
        "architecture": name,
        "d_in": dictionary.d_in,
        "d_sae": dictionary.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    described = dictionary.describe()
    known = {"sae_lens_version": VERSION, "sparse_rep_kind": described["kind"], DESCRIBED: described}
    if isinstance(dictionary, MatchingPursuit):
        folded = dictionary.folded()
        weights = {"W_dec": folded.W_dec, "b_dec": folded.b_dec}
        cfg |= {
            "residual_threshold": folded.residual_threshold,
            "max_iterations": folded.k,
            "stop_on_duplicate_support": folded.stop_on_repeat,
        }
        known[TYPICAL_NORM] = folded.typical_norm
    else:
        assert isinstance(dictionary, EncoderDictionary)
        folded = dictionary.folded()
        weights = _encoder_weights(folded)
        if isinstance(folded, TopK):
            cfg |= {"k": folded.k, "rescale_acts_by_decoder_norm": False}
        if folded.transcodes:
            cfg |= {"d_out": folded.d_out, "apply_b_dec_to_input": False}
    cfg["metadata"] = {**metadata, **known}
    return cfg, {key: tensor.detach().float().cpu().contiguous() for key, tensor in weights.items()}


def from_sae_lens(cfg: Mapping[str, Any], directory: Path, backend: ops.Backend = "auto") -> Dictionary:
    """Read what `to_sae_lens` or sae-lens itself wrote.

    Raises ConfigError for an architecture or a normalisation that we do not have, DataError where weights and cfg.json
    disagree.
    """
    return dictionary_of(cfg, read_tensors(directory / WEIGHTS), directory / WEIGHTS, backend)


def dictionary_of(
    cfg: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path, backend: ops.Backend = "auto"
) -> Dictionary:
    """The dictionary of a SAELens config and its tensors; `path` names them in errors."""
    name = cfg.get("architecture", "standard")
    if name not in (*ENCODERS, "matching_pursuit"):
        raise ConfigError(
            f"{path.parent} holds a {name!r} dictionary; known are {', '.join(ENCODERS)}, matching_pursuit"
        )
    if cfg.get("normalize_activations") not in (None, "none"):
        raise ConfigError(
            f"{path.parent} normalises activations ({cfg['normalize_activations']}); fold that into the weights first "
            "(sae-lens: fold_activation_norm_scaling_factor)"
        )
    settings = _settings(cfg, name)
    if name == "matching_pursuit":
        return _pursuit(cfg, weights, path, settings, backend)
    transcodes = "transcoder" in name
    dictionary: EncoderDictionary = build_coder(
        settings, cfg["d_in"], backend, cfg.get("d_out", cfg["d_in"]) if transcodes else None
    )
    expected = {key: tuple(tensor.shape) for key, tensor in _encoder_weights(dictionary).items()}
    require_shapes(path, weights, expected)
    with torch.no_grad():
        _fill(dictionary, {key: tensor.float() for key, tensor in weights.items()}, cfg)
    return dictionary.eval().requires_grad_(False)


def _settings(cfg: Mapping[str, Any], name: str) -> DictionarySettings:
    described = dict((cfg.get("metadata") or {}).get(DESCRIBED) or {})
    if described.get("kind") in ARCHITECTURES:
        fields = ARCHITECTURES[described["kind"]].model_fields
        known = {name: value for name, value in described.items() if name in fields}
        return ARCHITECTURES[described["kind"]].checked({**known, "n_latents": cfg["d_sae"]})
    if name == "matching_pursuit":
        return MPConfig.checked(
            {
                "n_latents": cfg["d_sae"],
                "k": cfg.get("max_iterations") or cfg["d_in"],
                "stop_on_repeat": cfg.get("stop_on_duplicate_support", True),
            }
        )
    data = {"n_latents": cfg["d_sae"], "skip": "skip" in name, **({"k": cfg["k"]} if name == "topk" else {})}
    return ENCODERS[name].checked(data)


def _encoder_weights(dictionary: EncoderDictionary) -> dict[str, Tensor]:
    """By SAELens' names, in its shapes."""
    weights = {"W_enc": dictionary.W_enc.T, "W_dec": dictionary.W_dec, "b_dec": dictionary.b_dec}
    if isinstance(dictionary, Gated):
        weights |= {"b_gate": dictionary.b_enc, "b_mag": dictionary.b_mag, "r_mag": dictionary.r_mag}
    else:
        weights["b_enc"] = dictionary.b_enc
    if isinstance(dictionary, JumpReLU):
        weights["threshold"] = dictionary.threshold
    elif isinstance(dictionary, BatchTopK | Matryoshka):
        weights["threshold"] = dictionary.threshold.value.expand(dictionary.n_latents)
    if dictionary.W_skip is not None:
        weights["W_skip"] = dictionary.W_skip
    return weights


def _fill(dictionary: EncoderDictionary, weights: Mapping[str, Tensor], cfg: Mapping[str, Any]) -> None:
    encoder, bias = weights["W_enc"].T, weights["b_gate" if isinstance(dictionary, Gated) else "b_enc"]
    atoms = weights["W_dec"]
    if cfg.get("rescale_acts_by_decoder_norm"):
        # sae-lens then ranks and reports activations times the atom's norm: fold it into the encoder, unit atoms.
        norms = atoms.norm(dim=-1)
        encoder, bias, atoms = encoder * norms[:, None], bias * norms, atoms / norms[:, None]
    magnitude = weights.get("b_mag")
    if not dictionary.transcodes and not cfg.get("apply_b_dec_to_input", True):
        # Ours takes b_dec from its input: give back through the biases what the encoder then misses.
        missed = encoder @ weights["b_dec"]
        bias = bias + missed
        magnitude = None if magnitude is None else magnitude + weights["r_mag"].exp() * missed
    dictionary.W_enc.copy_(encoder)
    dictionary.b_enc.copy_(bias)
    dictionary.W_dec.copy_(atoms)
    dictionary.b_dec.copy_(weights["b_dec"])
    if isinstance(dictionary, Gated):
        assert magnitude is not None
        dictionary.b_mag.copy_(magnitude)
        dictionary.r_mag.copy_(weights["r_mag"])
    elif isinstance(dictionary, JumpReLU):
        dictionary.threshold.copy_(weights["threshold"])
    elif isinstance(dictionary, BatchTopK | Matryoshka):
        dictionary.threshold.value.copy_(weights["threshold"][0])
    if dictionary.W_skip is not None:
        dictionary.W_skip.copy_(weights["W_skip"])


def _pursuit(
    cfg: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path, settings: Any, backend: ops.Backend
) -> MatchingPursuit:
    if not cfg.get("apply_b_dec_to_input", True):
        raise ConfigError(f"{path.parent}: a matching pursuit without b_dec on its input cannot be read")
    dictionary: MatchingPursuit = build_coder(settings, cfg["d_in"], backend)
    require_shapes(path, weights, {"W_dec": (cfg["d_sae"], cfg["d_in"]), "b_dec": (cfg["d_in"],)})
    with torch.no_grad():
        dictionary.W_dec.copy_(weights["W_dec"])
        dictionary.b_dec.copy_(weights["b_dec"])
    # A threshold is a norm; ours is a share of the typical one.
    dictionary.typical_norm = (cfg.get("metadata") or {}).get(TYPICAL_NORM, dictionary.typical_norm)
    dictionary.tolerance = cfg.get("residual_threshold", 1e-2) / dictionary.typical_norm
    return dictionary.eval().requires_grad_(False)
