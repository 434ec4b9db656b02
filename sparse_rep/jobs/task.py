"""The contract between a coordinator and whoever does the work, in this process or on another machine.

A worker holds a model and knows nothing of files. A coordinator knows the store and holds no model. Between them travel a
small task and a result of plain arrays, so the same job runs in process, one process a GPU, or on a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict


class ShardTask(BaseModel):
    """Encode corpus tokens [tok_lo, tok_hi), which are whole windows, as one shard."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    shard: int
    tok_lo: int
    tok_hi: int

    @property
    def name(self) -> str:
        """File name of the shard, the same whoever runs it and however often."""
        return f"{self.shard:06d}"


@dataclass(frozen=True)
class CodeRows:
    """Codes of one dictionary on one shard as three equal columns, in any order."""

    feature: np.ndarray  # uint32 (nnz)
    tok: np.ndarray  # uint32 (nnz)
    act: np.ndarray  # float32 (nnz)


@dataclass(frozen=True)
class DenseRows:
    """Dense activations of some tokens at one hook."""

    tok: np.ndarray  # uint32 (rows)
    x: np.ndarray  # float32 (rows, d)


@dataclass(frozen=True)
class ShardResult:
    """Everything a worker found on one shard."""

    task: ShardTask
    codes: dict[str, CodeRows]
    """By dictionary id."""
    activations: dict[str, DenseRows] = field(default_factory=dict)
    """By hook."""
    tables: dict[str, Any] = field(default_factory=dict)
    """Extra tables by name (routes, heads, ...): dicts of equal columns."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time by phase: forward, encode, ..."""


class Worker(Protocol):
    """Holds what is expensive to make (a model, dictionaries) and turns tasks into results."""

    def run(self, task: ShardTask) -> ShardResult: ...


class Executor(Protocol):
    """Runs tasks on workers. Results may come in any order; a task that fails raises in the coordinator."""

    def map(self, make_worker: Callable[[], Worker], tasks: Iterable[ShardTask]) -> Iterator[ShardResult]: ...


class LocalExecutor:
    """One worker in this process, tasks in order."""

    def map(self, make_worker: Callable[[], Worker], tasks: Iterable[ShardTask]) -> Iterator[ShardResult]:
        worker = None
        for task in tasks:
            worker = worker or make_worker()
            yield worker.run(task)
