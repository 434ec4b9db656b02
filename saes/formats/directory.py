"""What every layout needs: a directory that appears whole or not at all, and files that say what is wrong with them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from sparse_rep.errors import ConfigError, DataError

CFG = "cfg.json"


@contextmanager
def replaced(directory: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `directory` at the end; after an error nothing has changed."""
    part = directory.with_name(f".{directory.name}.tmp-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)
    part.rename(directory)


def read_json(path: Path) -> dict[str, Any]:
    """Raises DataError for what is not a JSON object."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} should hold a JSON object, found {type(found).__name__}")
    return found


def read_cfg(directory: Path) -> dict[str, Any]:
    """cfg.json of a saved dictionary. Raises ConfigError where there is none."""
    if not (directory / CFG).is_file():
        raise ConfigError(f"no dictionary at {directory}: {CFG} is not there; `sparse-rep train` makes one")
    return read_json(directory / CFG)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file. Raises DataError for anything else; nothing is ever unpickled."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}") from error


def require_shapes(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises DataError for the first tensor that is missing or of another shape than the config says."""
    for name, shape in expected.items():
        there = tuple(found[name].shape) if name in found else "nothing"
        if there != shape:
            raise DataError(f"{path}: {name} should be {shape} by {CFG}, found {there}")
