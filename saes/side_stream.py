"""Work that runs beside other work on one CUDA device: products beside sums that wait for memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def beside(device: torch.device) -> Iterator[AbstractContextManager[object]]:
    """Yields a context for the work that runs beside the rest of the block; at the end of the block both are done.

    What the two share must live until then. Recorded into a graph they become parallel branches. On a CPU nothing changes.
    """
    if device.type != "cuda":
        yield nullcontext()
        return
    side, main = _stream(device), torch.cuda.current_stream(device)
    side.wait_stream(main)
    yield torch.cuda.stream(side)
    main.wait_stream(side)
