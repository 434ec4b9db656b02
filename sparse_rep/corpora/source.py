"""Activations of a model on a corpus, as a restartable source, and a cache of them on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.activations import ActivationBatch, ActivationSource
from sparse_rep.corpora.tokenised import Corpus, Split
from sparse_rep.corpora.windows import Windows
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.model import HostedModel


@dataclass(frozen=True)
class Captured:
    """Activations of some corpus tokens at one or more hooks, on the model's device."""

    tok: Int[Tensor, " n"]
    position: Int[Tensor, " n"]
    """Position in the window as the model counts it: BOS, where there is one, is 0."""
    x: dict[str, Float[Tensor, "n d"]]
    """By hook; float32."""


def captured(
    model: HostedModel, windows: Windows, token_ids: np.ndarray, chosen: range, hooks: Sequence[str], batch_tokens: int
) -> Iterator[Captured]:
    """Run a model over a range of windows, a batch of at most `batch_tokens` positions at a time; every token once.

    Rows come batch by batch and so not in the order of the corpus: `tok` says which is which.
    """
    for batch in windows.batches(token_ids, chosen, batch_tokens):
        found = model.capture(batch.input_ids, batch.attention_mask, hooks)
        x = {hook: rows[batch.real.to(rows.device)] for hook, rows in found.items()}
        device = next(iter(x.values())).device
        yield Captured(batch.tok.to(device), batch.position.to(device), x)


@final
class ModelActivations(ActivationSource):
    """Activations at one hook over the documents of one split of a corpus, without those that would drown the rest.

    With a `target_hook`, those at another beside them, as the batches' `target`. Left out are the first `skip_positions`
    positions of each window (BOS counts as one) and tokens whose norm, at either hook, exceeds `max_norm_ratio` times the
    median: at some layers a few tokens carry nearly all variance. The median is taken once over the first chunk, after the
    skipped positions, and rounded to 4 digits so that it is the same wherever it is taken.

    A chunk is a fixed group of windows of about `tokens_per_chunk` tokens, sorted by `tok`; fewer rows come out.
    """

    def __init__(
        self,
        model: HostedModel,
        corpus: Corpus,
        hook: str,
        *,
        context: int,
        target_hook: str | None = None,
        split: Split | None = "train",
        skip_positions: int = 1,
        max_norm_ratio: float = 10.0,
        tokens_per_chunk: int = 8192,
        batch_tokens: int = 4096,
    ) -> None:
        self.d_in = model.width(hook)
        self.d_out = None if target_hook is None else model.width(target_hook)
        self._model, self._corpus, self._hook, self._target_hook = model, corpus, hook, target_hook
        self._windows = corpus.windows(context, model.bos_id, split)
        if not len(self._windows):
            raise ConfigError(f"the corpus {corpus.corpus_id} has no {split} documents: give more text")
        self._shards = self._windows.shards(tokens_per_chunk)
        self._skip, self._ratio, self._batch_tokens = skip_positions, max_norm_ratio, batch_tokens
        self._first: ActivationBatch | None = None
        self._identity = {
            "kind": "model",
            "model": model.origin.name,
            "revision": model.origin.revision,
            "backend": model.backend,
            "dtype": str(model.model.dtype).removeprefix("torch."),
            "hook": hook,
            "corpus_id": corpus.corpus_id,
            "split": split,
            "context": context,
            "skip_positions": skip_positions,
            "max_norm_ratio": max_norm_ratio,
            "tokens_per_chunk": tokens_per_chunk,
            "d_in": self.d_in,
            **({} if target_hook is None else {"target_hook": target_hook}),
        }

    def n_chunks(self) -> int:
        return len(self._shards)

    def tokens(self, chunk: int) -> int:
        """Corpus tokens in a chunk, before any is left out."""
        inside = self._windows.within(*self._shards[chunk])
        return int((self._windows.hi[inside.start : inside.stop] - self._windows.lo[inside.start : inside.stop]).sum())

    def n_tokens(self) -> int:
        """Corpus tokens in the whole pass, before any is left out."""
        return self._windows.n_tokens

    def chunks(self, start: int = 0) -> Iterator[ActivationBatch]:
        for chunk in range(start, len(self._shards)):
            medians, rows = self.median_norms, self._rows(chunk)
            kept = _ordinary(rows.x, self._ratio * medians[self._hook])
            if self._target_hook is not None:
                assert rows.target is not None
                kept &= _ordinary(rows.target, self._ratio * medians[self._target_hook])
            yield rows.rows(kept)

    def left_out_share(self, rows: dict[int, int]) -> float:
        """Share of the corpus tokens left out, given how many rows came out of each of some chunks."""
        return 1 - sum(rows.values()) / sum(self.tokens(chunk) for chunk in rows)

    @property
    def median_norm(self) -> float:
        """Median L2 norm at the hook in the first chunk, rounded to 4 digits."""
        return self.median_norms[self._hook]

    @cached_property
    def median_norms(self) -> dict[str, float]:
        """The same at each hook, the target's too."""
        self._first = first = self._rows(0)
        at = {self._hook: first.x}
        if self._target_hook is not None:
            assert first.target is not None
            at[self._target_hook] = first.target
        return {hook: float(f"{x.norm(dim=1).median().item():.4g}") for hook, x in at.items()}

    def describe(self) -> dict[str, Any]:
        return {**self._identity, "median_norm": self.median_norm}

    def _rows(self, chunk: int) -> ActivationBatch:
        """A chunk without its first positions, in the order of the corpus."""
        if chunk == 0 and self._first is not None:  # what the median was taken over is wanted next
            first, self._first = self._first, None
            return first
        inside = self._windows.within(*self._shards[chunk])
        parts = []
        hooks = [self._hook] if self._target_hook is None else [self._hook, self._target_hook]
        for part in captured(self._model, self._windows, self._corpus.token_ids, inside, hooks, self._batch_tokens):
            kept = part.position >= self._skip
            target = None if self._target_hook is None else part.x[self._target_hook][kept]
            parts.append(ActivationBatch(part.x[self._hook][kept], part.tok[kept], target=target))
        rows = ActivationBatch.concat(parts)
        assert rows.tok is not None
        return rows.rows(rows.tok.argsort())


def _ordinary(x: Tensor, largest: float) -> Tensor:
    """Rows whose norm does not exceed `largest`. Those that are not finite stay: the stream refuses them by name."""
    norms = x.norm(dim=1)
    return ~(norms > largest) | ~norms.isfinite()


@final
class CachedActivations(ActivationSource):
    """Activations computed once and kept on disk, bit for bit, for further passes.

    Chunks are files under `directory`/<digest of the source's description>, each renamed into place when whole, so that an
    interrupted pass goes on where it stopped and a source that differs in anything has files of its own. They are read by
    memory map, into CPU tensors.
    """

    def __init__(self, source: ActivationSource, directory: Path) -> None:
        self._source, self.d_in, self.d_out = source, source.d_in, source.d_out
        key = hashlib.sha256(json.dumps(source.describe(), sort_keys=True, default=str).encode()).hexdigest()
        self._directory = directory / key[:16]
        self._directory.mkdir(parents=True, exist_ok=True)

    def n_chunks(self) -> int:
        return self._source.n_chunks()

    def describe(self) -> dict[str, Any]:
        return self._source.describe()

    def chunks(self, start: int = 0) -> Iterator[ActivationBatch]:
        fresh: Iterator[ActivationBatch] | None = None
        for chunk in range(start, self.n_chunks()):
            if self._path(chunk, "x").exists():
                fresh = None  # the next it gives would not be the next that is missing
            else:
                fresh = fresh or self._source.chunks(chunk)
                self._write(chunk, next(fresh))
            yield self._read(chunk)

    def _path(self, chunk: int, column: str) -> Path:
        return self._directory / f"{chunk:06d}.{column}.npy"

    def _read(self, chunk: int) -> ActivationBatch:
        def mapped(column: str) -> Tensor:
            # Copy-on-write maps: torch wants memory that may be written, and the file must not be.
            return torch.from_numpy(np.load(self._path(chunk, column), mmap_mode="c"))

        target = None if self.d_out is None else mapped("target")
        return ActivationBatch(mapped("x"), torch.from_numpy(np.load(self._path(chunk, "tok"))), target=target)

    def _write(self, chunk: int, batch: ActivationBatch) -> None:
        assert batch.tok is not None
        columns = {"tok": batch.tok, "target": batch.target, "x": batch.x}  # x last: where it is, the chunk is whole
        for name, column in columns.items():
            if column is None:
                continue
            path = self._path(chunk, name)
            part = path.with_name(f".{path.name}.{os.getpid()}")
            with part.open("wb") as stream:
                np.save(stream, column.cpu().numpy())
            part.replace(path)
