"""A training step as a CUDA graph: its few dozen launches cost the host one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

EAGER_STEPS = 3
"""Steps run as they are before one is recorded: kernels must have been compiled, and the allocator warmed."""

Step = Callable[..., dict[str, Tensor]]


@final
class GraphedSteps:
    """Calls `step(x, *key)`; from the fourth call with the same shape and key on, by replaying a recording of it.

    The step must read its state from tensors that stay where they are and never wait for the device. Its results are
    overwritten by the next call. Recordings share their memory: they never run at the same time.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._recorded: dict[Any, tuple[torch.cuda.CUDAGraph, Tensor, dict[str, Tensor]]] = {}
        self._calls: dict[Any, int] = {}
        self._pool: Any = None

    def __call__(self, x: Tensor, *key: Any) -> dict[str, Tensor]:
        which = (x.shape, *key)
        if which not in self._recorded:
            self._calls[which] = self._calls.get(which, 0) + 1
            if self._calls[which] <= EAGER_STEPS:
                return self._step(x, *key)
            self._recorded[which] = self._record(x, key)
        graph, static, results = self._recorded[which]
        static.copy_(x)
        graph.replay()
        return results

    def _record(self, x: Tensor, key: tuple[Any, ...]) -> tuple[torch.cuda.CUDAGraph, Tensor, dict[str, Tensor]]:
        static, graph = x.clone(), torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool):
            results = self._step(static, *key)
        return graph, static, results
