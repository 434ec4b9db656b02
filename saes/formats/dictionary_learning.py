"""dictionary_learning's layout: ae.pt + config.json (checked against its 0.1.0). Read only, weights only, never code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_rep.config_dictionary import (
    BatchTopKConfig,
    DictionarySettings,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    StandardConfig,
    TopKConfig,
)
from sparse_rep.errors import ConfigError, DataError
from sparse_rep.kernels import ops
from sparse_rep.saes.batchtopk import BatchTopK
from sparse_rep.saes.coder import Dictionary
from sparse_rep.saes.formats.directory import read_json, require_shapes
from sparse_rep.saes.matryoshka import Matryoshka
from sparse_rep.saes.registry import build_coder

CONFIG, WEIGHTS = "config.json", "ae.pt"

KINDS: dict[str, type[DictionarySettings]] = {
    "AutoEncoder": StandardConfig,
    "AutoEncoderTopK": TopKConfig,
    "BatchTopKSAE": BatchTopKConfig,
    "MatryoshkaBatchTopKSAE": MatryoshkaConfig,
    "GatedAutoEncoder": GatedConfig,
    "JumpReluAutoEncoder": JumpReLUConfig,
}


def is_dictionary_learning(directory: Path) -> bool:
    return (directory / WEIGHTS).is_file()


def trained_on(directory: Path) -> dict[str, Any]:
    """What its trainer wrote down: dict_class, activation_dim, dict_size, k, lm_name, layer, ..."""
    return read_json(directory / CONFIG).get("trainer", {})


def from_dictionary_learning(directory: Path, backend: ops.Backend = "auto") -> Dictionary:
    """A dictionary of any of its classes whose codes we can make.

    Raises ConfigError for another class, DataError where the file holds more than tensors or they disagree with the config.
    """
    trainer, path = trained_on(directory), directory / WEIGHTS
    name = trainer.get("dict_class")
    if name not in KINDS:
        raise ConfigError(f"{directory / CONFIG} names the class {name!r}; known are {', '.join(KINDS)}")
    weights = _plain(_tensors(path))
    d, m = trainer["activation_dim"], trainer["dict_size"]
    settings = KINDS[name].checked(_settings(name, weights, m))
    dictionary: Any = build_coder(settings, d, backend)
    shapes = {"W_enc": (m, d), "W_dec": (m, d), "b_enc": (m,), "b_dec": (d,)}
    extra = {"GatedAutoEncoder": ("r_mag", "b_mag"), "JumpReluAutoEncoder": ("threshold",)}.get(name, ())
    require_shapes(path, weights, {**shapes, **dict.fromkeys(extra, (m,))})
    with torch.no_grad():
        norms = weights["W_dec"].norm(dim=-1)
        if name == "AutoEncoder":
            # Its loader gives atoms unit norm and latents their length: trained by the April update they have neither.
            weights["W_enc"], weights["b_enc"] = weights["W_enc"] * norms[:, None], weights["b_enc"] * norms
            weights["W_dec"] = weights["W_dec"] / norms[:, None]
        if name == "JumpReluAutoEncoder":
            # It does not take b_dec from its input; ours does.
            weights["b_enc"] = weights["b_enc"] + weights["W_enc"] @ weights["b_dec"]
        for key in (*shapes, *extra):
            getattr(dictionary, key).copy_(weights[key])
        if isinstance(dictionary, BatchTopK | Matryoshka):
            # -1 before its training has set it: then every positive latent passes.
            dictionary.threshold.value.copy_(weights["threshold"].clamp(min=0))
    return dictionary.eval().requires_grad_(False)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        raise DataError(
            f"{path} holds more than tensors, or is broken; it is not read ({type(error).__name__})"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DataError(f"{path} should hold a dictionary of tensors by name")
    return found


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By one set of names, in our shapes: its classes have several."""
    weights = {name: tensor.float() for name, tensor in state.items()}
    if "encoder.weight" in weights:
        weights["W_enc"] = weights.pop("encoder.weight")
        weights["W_dec"] = weights.pop("decoder.weight").T
    else:
        weights["W_enc"] = weights["W_enc"].T
    renamed = {
        "encoder.bias": "b_enc",
        "gate_bias": "b_enc",
        "mag_bias": "b_mag",
        "bias": "b_dec",
        "decoder_bias": "b_dec",
    }
    return {renamed.get(name, name): tensor for name, tensor in weights.items()}


def _settings(name: str, weights: Mapping[str, Tensor], m: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"n_latents": m}
    if "k" in weights:
        k = weights["k"].item()
        settings["k"] = int(k) if name == "AutoEncoderTopK" else k
    if name == "MatryoshkaBatchTopKSAE":
        ends = weights["group_sizes"].cumsum(0).tolist()
        settings["prefix_shares"] = tuple(end / m for end in ends)
    return settings
