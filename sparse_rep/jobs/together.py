"""Training under torchrun: who this process is, and activations that each rank computes a part of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor

from sparse_rep.activations import ActivationBatch, ActivationSource
from sparse_rep.config import TrainConfig
from sparse_rep.saes.ranks import ALONE, Ranks, current, together


@contextmanager
def launched() -> Iterator[Ranks]:
    """The ranks that torchrun started this process as one of; alone without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ALONE
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        with together(Ranks(dist.get_rank(), world)) as ranks:
            yield ranks
    finally:
        dist.destroy_process_group()


def on_own_device(config: TrainConfig) -> TrainConfig:
    """The config with this rank's device, where there is a choice of several."""
    if current().world == 1 or not torch.cuda.is_available() or config.model.device not in ("auto", "cuda"):
        return config
    device = f"cuda:{os.environ['LOCAL_RANK']}"
    torch.cuda.set_device(device)
    return config.model_copy(update={"model": config.model.model_copy(update={"device": device})})


def told(answer: Any) -> Any:
    """What rank 0 says (a picklable object), on every rank; the object itself when alone."""
    if current().world == 1:
        return answer
    box = [answer]
    dist.broadcast_object_list(box, 0)
    return box[0]


def wait() -> None:
    """Until every rank is here."""
    if current().world > 1:
        dist.barrier()


@final
class SharedActivations(ActivationSource):
    """A source whose chunks are computed in turn by the ranks and seen by all: the model's forward is paid once in all.

    Every rank must ask for the same chunks in the same order.
    """

    def __init__(self, source: ActivationSource, device: torch.device | str) -> None:
        self._source, self.d_in, self.d_out, self._device = source, source.d_in, source.d_out, device

    def n_chunks(self) -> int:
        return self._source.n_chunks()

    def describe(self) -> dict[str, Any]:
        return self._source.describe()

    def chunks(self, start: int = 0) -> Iterator[ActivationBatch]:
        ranks, n = current(), self.n_chunks()
        for first in range(start, n, ranks.world):
            own = first + ranks.rank
            mine = next(iter(self._source.chunks(own))).to(self._device) if own < n else None
            yield from self._exchanged(mine, min(ranks.world, n - first))

    def _exchanged(self, mine: ActivationBatch | None, count: int) -> list[ActivationBatch]:
        """The chunks of the first `count` ranks."""
        rows = torch.tensor(0 if mine is None else len(mine), device=self._device)
        lengths = current().gather(rows, "lengths").tolist()
        columns = [self._column(None if mine is None else mine.x, self.d_in, max(lengths))]
        if self.d_out is not None:
            columns.append(self._column(None if mine is None else mine.target, self.d_out, max(lengths)))
        tok = torch.full((max(lengths),), -1, dtype=torch.int64, device=self._device)
        if mine is not None and mine.tok is not None:
            tok[: len(mine)] = mine.tok
        parts = [current().gather(column, "activations") for column in (*columns, tok)]
        x, target, toks = parts[0], parts[1] if self.d_out is not None else None, parts[-1]
        return [
            ActivationBatch(
                x[i, : lengths[i]], toks[i, : lengths[i]], target=None if target is None else target[i, : lengths[i]]
            )
            for i in range(count)
        ]

    def _column(self, mine: Tensor | None, width: int, rows: int) -> Tensor:
        column = torch.zeros((rows, width), device=self._device)
        if mine is not None:
            column[: len(mine)] = mine
        return column
