"""What an experiment has done so far, on disk, so that one that was stopped goes on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, final

import torch


@final
class Ledger:
    """Results of finished parts and the state of the one under way, in a directory of the experiment's own.

    The directory is named by a digest of everything the results depend on; `close` removes it once they have been given.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def results(self, part: str) -> list[dict[str, Any]] | None:
        """What `write` was given for this part; None where it has not finished."""
        path = self.directory / f"{part}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def write(self, part: str, rows: list[dict[str, Any]]) -> None:
        """Note a part as finished; its state is no longer needed."""
        self._replace(f"{part}.json", lambda path: path.write_text(json.dumps(rows)))
        self.state_path(part).unlink(missing_ok=True)

    def state_path(self, part: str) -> Path:
        """Where the state of an unfinished part is kept."""
        return self.directory / f"{part}.pt"

    def state(self, part: str) -> dict[str, Any] | None:
        path = self.state_path(part)
        return torch.load(path, weights_only=True) if path.exists() else None

    def save_state(self, part: str, state: dict[str, Any]) -> None:
        self._replace(f"{part}.pt", lambda path: torch.save(state, path))

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def _replace(self, name: str, write: Any) -> None:
        part = self.directory / f".{name}.{os.getpid()}"
        write(part)
        part.replace(self.directory / name)
