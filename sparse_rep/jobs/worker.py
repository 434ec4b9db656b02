"""The worker of extraction: a model, dictionaries, and one shard's tokens in, sparse codes out. It knows no files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sparse_rep.codes import SparseCodes
from sparse_rep.corpora.source import captured
from sparse_rep.corpora.tokenised import Corpus
from sparse_rep.hosting.model import HostedModel
from sparse_rep.jobs.task import CodeRows, DenseRows, ShardResult, ShardTask
from sparse_rep.saes.coder import Dictionary


@dataclass(frozen=True)
class Loaded:
    """A dictionary ready to encode, and where in the model it reads."""

    dictionary_id: str
    hook: str
    coder: Dictionary


class ExtractWorker:
    """Encodes shards of a corpus: one forward pass feeds every dictionary.

    `sampled` are the corpus tokens whose dense activations are kept. Batches never straddle shards, so a shard's codes do
    not depend on which others were run beside it.
    """

    def __init__(
        self,
        model: HostedModel,
        corpus: Corpus,
        dictionaries: Sequence[Loaded],
        *,
        context: int,
        batch_tokens: int,
        sampled: np.ndarray,
    ) -> None:
        self._model, self._corpus, self._dictionaries = model, corpus, dictionaries
        self._windows = corpus.windows(context, model.bos_id)
        self._hooks = list(dict.fromkeys(d.hook for d in dictionaries))
        self._batch_tokens = batch_tokens
        self._sampled = torch.from_numpy(np.isin(np.arange(corpus.n_tokens), sampled))

    @torch.no_grad()
    def run(self, task: ShardTask) -> ShardResult:
        codes: dict[str, list[CodeRows]] = {d.dictionary_id: [] for d in self._dictionaries}
        dense: dict[str, list[DenseRows]] = {hook: [] for hook in self._hooks}
        seconds = {"encode": 0.0, "collect": 0.0}
        started = time.perf_counter()
        inside = self._windows.within(task.tok_lo, task.tok_hi)
        for part in captured(
            self._model, self._windows, self._corpus.token_ids, inside, self._hooks, self._batch_tokens
        ):
            tok = part.tok.cpu()
            for loaded in self._dictionaries:
                at = time.perf_counter()
                found = loaded.coder.encode(part.x[loaded.hook])
                seconds["encode"] += time.perf_counter() - at
                codes[loaded.dictionary_id].append(_rows(found, tok))
                seconds["collect"] += time.perf_counter() - at
            kept = self._sampled[tok]
            if kept.any():
                for hook in self._hooks:
                    rows = part.x[hook][kept.to(part.x[hook].device)].float().cpu().numpy()
                    dense[hook].append(DenseRows(tok[kept].numpy().astype(np.uint32), rows))
        seconds["collect"] -= seconds["encode"]
        seconds["forward"] = time.perf_counter() - started - seconds["encode"] - seconds["collect"]
        return ShardResult(
            task,
            codes={name: _joined(parts) for name, parts in codes.items()},
            activations={
                hook: DenseRows(np.concatenate([p.tok for p in parts]), np.concatenate([p.x for p in parts]))
                for hook, parts in dense.items()
                if parts
            },
            seconds=seconds,
        )


def _rows(codes: SparseCodes, tok: torch.Tensor) -> CodeRows:
    csr = codes.to_csr()
    return CodeRows(
        csr.indices.cpu().numpy().astype(np.uint32),
        tok[csr.rows().cpu()].numpy().astype(np.uint32),
        csr.values.float().cpu().numpy(),
    )


def _joined(parts: list[CodeRows]) -> CodeRows:
    columns = zip(*((p.feature, p.tok, p.act) for p in parts), strict=True)
    return CodeRows(*(np.concatenate(column) for column in columns))
