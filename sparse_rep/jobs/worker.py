"""The worker of every capture: a model and one shard's tokens in, whatever was asked for out. It knows no files."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import TypeVar, final

import torch

from sparse_rep.corpora.tokenised import Corpus
from sparse_rep.hosting.model import HostedModel
from sparse_rep.jobs.capture import Capture, Seen
from sparse_rep.jobs.task import ShardResult, ShardTask

T = TypeVar("T")


@final
class CaptureWorker:
    """Reads shards of a corpus, one forward pass a batch for all captures, which must be fitted.

    Batches never straddle shards, so what is found on one does not depend on which others were run beside it.
    """

    def __init__(
        self, model: HostedModel, corpus: Corpus, captures: Sequence[Capture], *, context: int, batch_tokens: int
    ) -> None:
        self._model, self._corpus, self._captures = model, corpus, captures
        self._windows = corpus.windows(context, model.bos_id)
        self._hooks = list(dict.fromkeys(hook for capture in captures for hook in capture.hooks))
        self._batch_tokens = batch_tokens

    @torch.no_grad()
    def run(self, task: ShardTask) -> ShardResult:
        seconds: dict[str, float] = defaultdict(float)
        inside = self._windows.within(task.tok_lo, task.tok_hi)
        with ExitStack() as attached:
            for capture in self._captures:
                attached.enter_context(capture.attached())
            for batch in self._windows.batches(self._corpus.token_ids, inside, self._batch_tokens):
                wanting = [capture for capture in self._captures if capture.before(batch)]
                if not wanting:
                    continue
                at = time.perf_counter()
                seen = Seen(batch, self._model.capture(batch.input_ids, batch.attention_mask, self._hooks))
                seconds["forward"] += time.perf_counter() - at
                at = time.perf_counter()
                for capture in wanting:
                    capture.see(seen)
                seconds["collect"] += time.perf_counter() - at
        at = time.perf_counter()
        found = [capture.take() for capture in self._captures]
        seconds["collect"] += time.perf_counter() - at
        for part in found:
            for phase, spent in part.seconds.items():
                seconds[phase] += spent
                seconds["collect"] -= spent
        return ShardResult(
            task,
            codes=_joined(part.codes for part in found),
            activations=_joined(part.activations for part in found),
            tables=_joined(part.tables for part in found),
            seconds=dict(seconds),
        )


def _joined(parts: Iterable[dict[str, T]]) -> dict[str, T]:
    joined: dict[str, T] = {}
    for part in parts:
        assert not joined.keys() & part.keys(), "two captures give the same thing"
        joined |= part
    return joined
