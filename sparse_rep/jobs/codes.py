"""The capture of sparse codes: every dictionary asked for, fed by the same activations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch

from sparse_rep.codes import SparseCodes
from sparse_rep.corpora.tokenised import Corpus
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.model import HostedModel
from sparse_rep.jobs.capture import Capture, Found, Seen
from sparse_rep.jobs.dictionaries import Source, load_dictionary
from sparse_rep.jobs.directions import feature_logits, feature_neighbors
from sparse_rep.jobs.task import CodeRows, DenseRows
from sparse_rep.kernels import ops
from sparse_rep.saes.mp import MatchingPursuit
from sparse_rep.store import RunWriter, Store


@final
class DictionaryCapture(Capture):
    """Codes of one or more dictionaries, and the dense activations of some tokens at the same hooks.

    `activations` says which tokens: none, all, or sample:N, drawn by `seed`. `steps` and `tolerance` are how far matching
    pursuit goes, where it is not to be as in training.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        activations: str,
        seed: int,
        kernels: ops.Backend,
        steps: int | None = None,
        tolerance: float | None = None,
    ) -> None:
        self._sources, self._activations, self._seed = sources, activations, seed
        self._kernels: ops.Backend = kernels
        self._steps, self._tolerance = steps, tolerance
        self.hooks = list(dict.fromkeys(source.hook for source in sources))

    def fit(self, model: HostedModel, corpus: Corpus) -> dict[str, Any]:
        self._model = model
        self._dictionaries = [load_dictionary(source, model, self._kernels) for source in self._sources]
        if self._steps is not None or self._tolerance is not None:
            self._pursue_as_told()
        sampled = sampled_tokens(self._activations, corpus.n_tokens, self._seed)
        self._sampled = torch.from_numpy(np.isin(np.arange(corpus.n_tokens), sampled))
        self._forget()
        return {"kernel": ops.backend_name(next(model.model.parameters()).device, self._kernels)}

    def see(self, seen: Seen) -> None:
        tok = seen.batch.tok
        for loaded in self._dictionaries:
            at = time.perf_counter()
            found = loaded.coder.encode(seen.rows(loaded.hook))
            self._encoding += time.perf_counter() - at
            self._codes[loaded.dictionary_id].append(_rows(found, tok))
        kept = self._sampled[tok]
        if kept.any():
            for hook in self.hooks:
                x = seen.rows(hook)
                dense = x[kept.to(x.device)].float().cpu().numpy()
                self._dense[hook].append(DenseRows(tok[kept].numpy().astype(np.uint32), dense))

    def take(self) -> Found:
        found = Found(
            codes={name: _joined(parts) for name, parts in self._codes.items()},
            activations={
                hook: DenseRows(np.concatenate([p.tok for p in parts]), np.concatenate([p.x for p in parts]))
                for hook, parts in self._dense.items()
                if parts
            },
            seconds={"encode": self._encoding},
        )
        self._forget()
        return found

    def finish(self, run: RunWriter, store: Store) -> None:
        for loaded in self._dictionaries:
            run.write_table("feature_logits", feature_logits(loaded, self._model), part=loaded.dictionary_id)
            run.write_table("feature_neighbors", feature_neighbors(loaded), part=loaded.dictionary_id)

    def _pursue_as_told(self) -> None:
        pursuits = [d.coder for d in self._dictionaries if isinstance(d.coder, MatchingPursuit)]
        if not pursuits:
            names = ", ".join(d.dictionary_id for d in self._dictionaries)
            raise ConfigError(
                f"steps and tolerance are for matching pursuit, and none of {names} is one: leave them out"
            )
        for coder in pursuits:
            coder.k = coder.k if self._steps is None else self._steps
            coder.tolerance = coder.tolerance if self._tolerance is None else self._tolerance

    def _forget(self) -> None:
        self._codes: dict[str, list[CodeRows]] = {d.dictionary_id: [] for d in self._dictionaries}
        self._dense: dict[str, list[DenseRows]] = {hook: [] for hook in self.hooks}
        self._encoding = 0.0


def sampled_tokens(spec: str, n_tokens: int, seed: int) -> np.ndarray:
    """Tokens whose dense activations are kept, ascending: none, all, or sample:N without replacement."""
    if spec == "none":
        return np.empty(0, np.int64)
    wanted = n_tokens if spec == "all" else min(int(spec.partition(":")[2]), n_tokens)
    return np.sort(np.random.default_rng(seed).choice(n_tokens, wanted, replace=False))


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
