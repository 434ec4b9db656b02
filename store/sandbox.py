"""SQL typed by a person: reads the store, writes nothing, sees nothing else, and ends.

Four fences, of which each would do for most of it: the text must be one query of the store's tables (`statement.py`); its
connection may open files of the store only and cannot be reconfigured (`confined.py`); its process cannot write a byte to a
file or take much memory; and this process ends that one when its time is up.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from sparse_rep.store import errors
from sparse_rep.store.errors import SqlTimeout, StoreError

if TYPE_CHECKING:
    from sparse_rep.store.store import Store

MEMORY_LIMIT = "2GB"
TOO_MUCH_MEMORY = f"the query needs more memory than the {MEMORY_LIMIT} it may have: narrow it"
GRACE_SECONDS = 2.0
"""What a query is given to notice that its time is up, before its process ends."""
START_SECONDS = 10.0
"""What starting the process may take on a busy machine, beside the query's own time."""


@dataclass(frozen=True)
class SqlResult:
    table: pa.Table
    truncated: bool
    """There were more rows than asked for."""
    seconds: float


def run_sql(store: Store | Path, sql: str, *, timeout: float = 30, max_rows: int = 10_000) -> SqlResult:
    """Run one SELECT (or VALUES, FROM, EXPLAIN, DESCRIBE, SHOW, SUMMARIZE) in a process of its own.

    A path is as good as a store, and quicker to start from: the other process opens it.

    Raises:
        SqlRefused: it is not one query, or it reaches outside the store.
        SqlTimeout: it took longer than `timeout` seconds.
        StoreError: it is wrong (syntax, names, types), or needs too much memory.
    """
    path = store if isinstance(store, Path) else store.path
    request = {"store": str(path), "sql": sql, "timeout": timeout, "max_rows": max_rows}
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "sparse_rep.store.confined"],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=START_SECONDS + timeout + GRACE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SqlTimeout(timed_out(timeout)) from error
    head, newline, body = child.stdout.partition(b"\n")
    if not newline:
        if b"Traceback" in child.stderr and b"MemoryError" not in child.stderr:
            raise AssertionError(child.stderr.decode(errors="replace"))
        raise _ended(child.returncode, timeout)
    answer = json.loads(head)
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["message"])
    return SqlResult(pa.ipc.open_stream(body).read_all(), answer["truncated"], answer["seconds"])


def _ended(code: int, timeout: float) -> StoreError:
    """A process that could not say why it ended was stopped by its limits."""
    return SqlTimeout(timed_out(timeout)) if code == -signal.SIGALRM else StoreError(TOO_MUCH_MEMORY)


def timed_out(timeout: float) -> str:
    return f"the query was stopped after {timeout:g} s: narrow it, or give it more time"
