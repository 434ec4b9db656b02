"""A training run's checkpoint: written whole or not at all, refused where it belongs to other settings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from sparse_rep.errors import DataError

VERSION = 2


def save_checkpoint(path: Path, settings: Mapping[str, Any], state: dict[str, Any]) -> None:
    """Atomic: a reader finds the old checkpoint or the new one, never part of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".tmp")
    with part.open("wb") as file:
        torch.save({"version": VERSION, "settings": dict(settings), "state": state}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The state saved under these settings.

    Raises DataError where it cannot be read, is of another version, or was made with other settings: the message says which.
    """
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(f"cannot read the checkpoint {path} ({error}); remove it to start this run afresh") from error
    if saved.get("version") != VERSION:
        raise DataError(f"{path} is of another version of sparse-rep; remove it to start this run afresh")
    differences = list(_differences(saved["settings"], dict(settings)))
    if differences:
        raise DataError(
            f"{path} belongs to another run: {'; '.join(differences)}; restore these settings, or remove it to start afresh"
        )
    return saved["state"]


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """One phrase a setting that is not the same."""
    for key in sorted({*saved, *now}):
        old, new = saved.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key} was {old!r} and is {new!r}"
