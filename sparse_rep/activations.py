"""`ActivationBatch` and the sources it comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.errors import DataError


@dataclass(frozen=True)
class ActivationBatch:
    """Activations of n tokens at one hook, with what is known about those tokens.

    `target` differs from `x` only for coders that predict another hook (transcoders); `labels` are needed by the
    supervised dictionary alone.
    """

    x: Float[Tensor, "n d"]
    tok: Int[Tensor, " n"] | None = None
    """Global position of each row in its corpus."""
    labels: Tensor | None = None
    target: Float[Tensor, "n d_out"] | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def rows(self, select: Tensor | slice) -> ActivationBatch:
        """The chosen rows, every field alike."""
        return ActivationBatch(*(None if f is None else f[select] for f in self._fields()))  # pyright: ignore

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> ActivationBatch:
        moved = ActivationBatch(*(None if f is None else f.to(device) for f in self._fields()))  # pyright: ignore
        if dtype is None:
            return moved
        return replace(moved, x=moved.x.to(dtype), target=None if moved.target is None else moved.target.to(dtype))

    def _fields(self) -> tuple[Tensor | None, ...]:
        return self.x, self.tok, self.labels, self.target

    @staticmethod
    def wrap(x: Tensor | ActivationBatch) -> ActivationBatch:
        return x if isinstance(x, ActivationBatch) else ActivationBatch(x)

    @staticmethod
    def concat(batches: list[ActivationBatch]) -> ActivationBatch:
        columns = zip(*(b._fields() for b in batches), strict=True)
        return ActivationBatch(*(None if c[0] is None else torch.cat(c) for c in columns))  # pyright: ignore


class ActivationSource(ABC):
    """One pass over a corpus of activations, in a fixed order that depends on nothing but its configuration.

    A source is restartable at a chunk boundary: `chunks(start)` gives the same chunks, from number `start`, however often
    it is asked. Chunks hold whatever number of rows is cheap to make; `ShuffleBuffer` turns them into mixed batches.
    """

    d_in: int
    d_out: int | None = None
    """Width of the targets, where batches carry them."""

    @abstractmethod
    def chunks(self, start: int = 0) -> Iterator[ActivationBatch]: ...

    @abstractmethod
    def n_chunks(self) -> int: ...

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What determines the activations, for provenance."""


class TensorSource(ActivationSource):
    """Activations held in memory, for tests, toys and small caches."""

    def __init__(self, x: Float[Tensor, "n d"], chunk_rows: int = 4096, tok: Tensor | None = None) -> None:
        self.d_in = x.shape[1]
        self._batch = ActivationBatch(x, torch.arange(len(x)) if tok is None else tok)
        self._chunk_rows = chunk_rows

    def chunks(self, start: int = 0) -> Iterator[ActivationBatch]:
        for lo in range(start * self._chunk_rows, len(self._batch), self._chunk_rows):
            yield self._batch.rows(slice(lo, lo + self._chunk_rows))

    def n_chunks(self) -> int:
        return -(-len(self._batch) // self._chunk_rows)

    def describe(self) -> dict[str, Any]:
        return {"kind": "tensor", "rows": len(self._batch), "d_in": self.d_in}


class ShuffleBuffer:
    """Mixed batches of `batch_rows` from a source, for ever, through a buffer of `buffer_rows` rows.

    The buffer is refilled to `buffer_rows`, shuffled with a seeded generator, and its first half is handed out before the
    next refill; so a batch mixes rows from buffer_rows/2 or more of stream. Memory is bounded by the buffer and one chunk.
    `state_dict` holds the buffer itself, so that a resumed stream is the interrupted one, row for row.
    """

    def __init__(self, source: ActivationSource, batch_rows: int, buffer_rows: int, seed: int) -> None:
        if batch_rows < 1 or buffer_rows < batch_rows:
            raise ValueError(f"buffer_rows={buffer_rows} must be at least batch_rows={batch_rows}, and both positive")
        self._source, self.batch_rows, self.buffer_rows = source, batch_rows, buffer_rows
        self._rng = torch.Generator().manual_seed(seed)
        self._rows: ActivationBatch | None = None
        self._cursor = 0
        self._release = 0
        self._next_chunk = 0
        self._stream: Iterator[ActivationBatch] | None = None
        self.epoch = 0

    def __iter__(self) -> Iterator[ActivationBatch]:
        return self

    def __next__(self) -> ActivationBatch:
        if self._rows is None or self._cursor + self.batch_rows > self._release:
            self._refill()
        assert self._rows is not None
        batch = self._rows.rows(slice(self._cursor, self._cursor + self.batch_rows))
        self._cursor += len(batch)
        return batch

    def peek(self, rows: int) -> ActivationBatch:
        """The next rows (at most the buffer) without handing them out."""
        if self._rows is None:
            self._refill()
        assert self._rows is not None
        return self._rows.rows(slice(self._cursor, self._cursor + rows))

    def _refill(self) -> None:
        held = [] if self._rows is None else [self._rows.rows(slice(self._cursor, None))]
        n_held = sum(len(b) for b in held)
        barren = 0
        while n_held < self.buffer_rows:
            chunk = self._pull()
            barren = 0 if len(chunk) else barren + 1
            if barren > max(self._source.n_chunks(), 1):
                raise ValueError(
                    "the activation source gives no rows: every token was filtered out or the text is empty"
                )
            held.append(chunk)
            n_held += len(chunk)
        pool = ActivationBatch.concat(held)
        self._rows = pool.rows(torch.randperm(len(pool), generator=self._rng))
        self._cursor = 0
        self._release = max(len(pool) // 2, self.batch_rows)

    def _pull(self) -> ActivationBatch:
        if self._stream is None:
            self._stream = self._source.chunks(self._next_chunk)
        chunk = next(self._stream, None)
        if chunk is None:
            self.epoch += 1
            self._next_chunk, self._stream = 0, self._source.chunks(0)
            chunk = next(self._stream, None)
            if chunk is None:
                raise ValueError("the activation source is empty: give it some text")
        self._require_finite(chunk)
        self._next_chunk += 1
        return chunk

    def _require_finite(self, chunk: ActivationBatch) -> None:
        """Here, where the place of a bad token is still known; a chunk costs far more to make than to look at."""
        bad = ~torch.isfinite(chunk.x).all(-1)
        if chunk.target is not None:
            bad |= ~torch.isfinite(chunk.target).all(-1)
        if bad.any():
            rows = bad.nonzero()[:, 0].tolist()
            first = rows[0] if chunk.tok is None else int(chunk.tok[rows[0]])
            raise DataError(
                f"activations are not finite at {len(rows)} of the {len(chunk)} tokens of shard {self._next_chunk} "
                f"(pass {self.epoch + 1}), the first at position {first} of the corpus: "
                "look at the model there, or raise its precision (model.dtype). The last checkpoint is kept"
            )

    def state_dict(self) -> dict[str, Any]:
        rows = None if self._rows is None else self._rows.rows(slice(self._cursor, None))
        return {
            "rows": None
            if rows is None
            else {"x": rows.x, "tok": rows.tok, "labels": rows.labels, "target": rows.target},
            "release": self._release - self._cursor,
            "next_chunk": self._next_chunk,
            "epoch": self.epoch,
            "rng": self._rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rows = None if state["rows"] is None else ActivationBatch(**state["rows"])
        self._cursor, self._release = 0, state["release"]
        self._next_chunk, self._stream, self.epoch = state["next_chunk"], None, state["epoch"]
        self._rng.set_state(state["rng"])
