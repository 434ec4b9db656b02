"""One writer a run: a lease file that names its holder and beats while the holder lives.

Created with O_EXCL. Stale when its process is gone (same host) or its heart has not beaten for a minute (other hosts, where
nobody can ask for the process); then the next writer takes over. Takeovers on one host queue behind a lock on the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from sparse_rep.store.errors import StoreError

BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0


class Lease:
    """Held from construction until `release`.

    Raises:
        StoreError: another live process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "writer.lease"
        self._text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "token": uuid.uuid4().hex})
        with _locked(folder):
            holder = _holder(self._path)
            if holder is not None:
                raise StoreError(f"run {folder.name} is being written by {holder}: wait for it, or stop it first")
            self._path.unlink(missing_ok=True)
            fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            with os.fdopen(fd, "w") as file:
                file.write(self._text)
        self._released = threading.Event()
        threading.Thread(target=self._beat, name=f"lease-{folder.name}", daemon=True).start()

    def check(self) -> None:
        """Called before each commit: a process that slept through its lease must not write over its successor.

        Raises:
            StoreError: the lease has gone to somebody else.
        """
        if self._read() != self._text:
            raise StoreError(
                f"the lease on {self._path.parent.name} was lost to another process: run the command again"
            )

    def release(self) -> None:
        if not self._released.is_set():
            self._released.set()
            if self._read() == self._text:
                self._path.unlink(missing_ok=True)

    def _read(self) -> str | None:
        try:
            return self._path.read_text()
        except OSError:
            return None

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _holder(path: Path) -> str | None:
    """Who holds the lease, in words; None when nobody alive does."""
    try:
        age = time.time() - path.stat().st_mtime
        data = json.loads(path.read_text())
        pid, host = int(data["pid"]), str(data["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if age > STALE_SECONDS or (host == socket.gethostname() and not _alive(pid)):
        return None
    return f"process {pid} on {host}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
