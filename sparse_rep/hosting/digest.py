"""Names for weight files by what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

BLOCK = 1 << 16
BLOCKS = 256


def fingerprint(files: Iterable[Path]) -> str:
    """12 hex digits of sha256 over each file's name, size and 256 blocks of 64 KiB spread evenly through it.

    Files up to 16 MiB are read whole; larger ones by sample, in milliseconds: headers, shapes and nearly every tensor of a
    checkpoint are among the samples, so other weights give another fingerprint, short of a deliberate forgery.
    """
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda f: f.name):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        step = max(BLOCK, size // BLOCKS)
        with file.open("rb") as stream:
            for start in [*range(0, size, step), max(size - BLOCK, 0)]:
                stream.seek(start)
                digest.update(stream.read(BLOCK))
    return digest.hexdigest()[:12]
