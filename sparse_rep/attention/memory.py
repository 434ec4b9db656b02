"""How much is held at once by what streams over queries: as much as the device has room for."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

import torch

from sparse_rep.errors import ConfigError

T = TypeVar("T")

LOGITS = 2**25
"""Logits of one head held at once, to begin with."""
LEAST_ROWS = 16
"""Queries at once below which halving has no sense."""

_logits: ContextVar[int] = ContextVar("logits_at_once", default=LOGITS)


def queries_at_once(n: int) -> int:
    """Queries whose n logits may be held together."""
    return max(_logits.get() // n, LEAST_ROWS)


def within_memory(work: Callable[[], T], n: int) -> T:
    """Do work that streams over queries of n keys; out of GPU memory, again with half as many at once.

    Raises ConfigError, saying what fits, where LEAST_ROWS are too many.
    """
    while True:
        try:
            return work()
        except torch.cuda.OutOfMemoryError as error:
            if queries_at_once(n) == LEAST_ROWS:
                raise too_long(n) from error
        torch.cuda.empty_cache()
        _logits.set(_logits.get() // 2)


def too_long(n: int) -> ConfigError:
    """What to tell when a text of n tokens does not fit."""
    free, total = (x / 2**30 for x in torch.cuda.mem_get_info()) if torch.cuda.is_available() else (0.0, 0.0)
    return ConfigError(
        f"out of GPU memory on texts of {n} tokens ({free:.1f} of {total:.1f} GiB are free beside the model): "
        f"about half of that fits, so try --length {n // 2}, or --set model.dtype=bfloat16"
    )
