"""Files that appear whole or not at all: written beside their place, synced, renamed, and the folder synced.

A reader never meets half a file, and after a power cut a manifest never lists a file whose bytes were lost.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sparse_rep.store.errors import StoreFull

TMP = ".tmp"
"""Suffix of unfinished files; whoever opens a run for writing deletes them."""


class HashingFile:
    """A binary file that keeps the sha256 and the length of what is written to it.

    Parquet is written front to back, so the hash costs no second reading.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        self._sha256.update(data)
        self._file.write(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self.bytes

    def close(self) -> None:
        """Left to `atomic_file`: Arrow closes what it is given before the bytes are synced."""

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


def sync_directory(path: Path) -> None:
    """Make renames in `path` survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Make the bytes of a file that somebody else wrote survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_file(path: Path, *, sync_folder: bool = True) -> Iterator[HashingFile]:
    """Yield a file that takes its place at `path` when the block ends well, and leaves nothing when it does not.

    Raises:
        StoreFull: the disk has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f"{path.name}.{os.getpid()}{TMP}")
    with explain_full(path):
        try:
            with tmp.open("wb") as raw:
                yield HashingFile(raw)
                raw.flush()
                os.fsync(raw.fileno())
            tmp.replace(path)
        except BaseException:
            tmp.unlink(missing_ok=True)
            raise
    if sync_folder:
        sync_directory(path.parent)


@contextmanager
def explain_full(what: Path) -> Iterator[None]:
    """Turn every spelling of "no space left" (ours, Arrow's, DuckDB's) into one sentence."""
    try:
        yield
    except Exception as error:
        if isinstance(error, StoreFull) or not is_full(error):
            raise
        raise StoreFull(
            f"no room left for {what}; nothing unfinished was kept: free some space and run the same command again"
        ) from error


def is_full(error: Exception) -> bool:
    """Whether the disk, a quota or the file size limit stopped a write."""
    text = str(error).lower()
    return any(word in text for word in ("no space left", "file too large", "quota exceeded", "errno 28", "errno 27"))


def write_text(path: Path, text: str) -> None:
    """Atomically replace a text file."""
    with atomic_file(path) as file:
        file.write(text.encode())


def rename_all(pending: list[tuple[Path, Path]]) -> None:
    """Move finished files into their places and sync each folder once."""
    for source, target in pending:
        source.replace(target)
    for folder in {target.parent for _, target in pending}:
        sync_directory(folder)


def remove_where(folder: Path, unwanted: Callable[[Path], bool]) -> list[Path]:
    """Delete the files below `folder` for which `unwanted` holds, and folders left empty by that."""
    gone = []
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            if path != folder and not any(path.iterdir()):
                path.rmdir()
        elif unwanted(path):
            path.unlink(missing_ok=True)
            gone.append(path)
    return gone
