"""From a config to its coder. The file of an architecture is found by its kind: adding one touches none of the others."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from sparse_rep.config_dictionary import DictionarySettings
from sparse_rep.kernels import ops
from sparse_rep.saes.coder import Dictionary

_CODERS: dict[type[DictionarySettings], type[Dictionary]] = {}

C = TypeVar("C", bound=type[Dictionary])


def coder_of(config_class: type[DictionarySettings]) -> Callable[[C], C]:
    """Marks the class that is built from a config class. The module must be called after the config's kind."""

    def mark(coder: C) -> C:
        _CODERS[config_class] = coder
        return coder

    return mark


def build_coder(config: DictionarySettings, d_in: int, backend: ops.Backend = "auto", d_out: int | None = None) -> Any:
    """The coder of a config, its weights still unset. `d_out` makes one with an encoder a transcoder to another hook."""
    importlib.import_module(f"sparse_rep.saes.{config.kind}")
    coder: Any = _CODERS[type(config)]
    return coder(config, d_in, backend) if d_out is None else coder(config, d_in, backend, d_out)
