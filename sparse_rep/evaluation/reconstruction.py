"""Reconstruction on held-out text, over all domains and in each.

A few tokens (the first of a window, and those whose norm dwarfs the median) can carry nearly all variance of a layer, so a
single figure over all tokens says little. Every metric is given twice: on the scored tokens, which leave those out, and
under `<metric>_all_tokens`. `left_out_share` says how many they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparse_rep.activations import ActivationBatch
from sparse_rep.metrics import ReconstructionStats
from sparse_rep.saes.coder import Dictionary


@dataclass(frozen=True)
class ScoredBatch:
    """Activations with the domain of each token and whether it counts."""

    batch: ActivationBatch
    domain: Int[Tensor, " n"]
    """Index into the list of domains."""
    scored: Bool[Tensor, " n"]


@dataclass(frozen=True)
class Metric:
    """One figure; domain None means all domains together."""

    domain: str | None
    name: str
    value: float


class Reconstruction:
    """Sums of one dictionary's figures, by domain: several dictionaries can be scored in one pass over the model."""

    def __init__(self, dictionary: Dictionary, domains: Sequence[str]) -> None:
        self._dictionary, self._domains = dictionary, domains
        shape = (dictionary.d_out, dictionary.n_latents)
        self._scored = [ReconstructionStats(*shape) for _ in domains]
        self._everything = [ReconstructionStats(*shape) for _ in domains]

    @torch.no_grad()
    def update(self, item: ScoredBatch) -> None:
        codes = self._dictionary.encode(item.batch)
        x = item.batch.x if item.batch.target is None else item.batch.target
        x_hat = self._dictionary.reconstruct(item.batch, codes)
        for index in item.domain.unique().tolist():
            here = item.domain == index
            for stats, rows in ((self._everything[index], here), (self._scored[index], here & item.scored)):
                stats.update(x[rows], x_hat[rows], codes.rows(rows))

    def metrics(self) -> list[Metric]:
        """Explained variance, FVU, L0, dead share and the rest of `ReconstructionStats`, by domain and overall.

        Domains without a token are left out; with no token at all the list is empty.
        """
        metrics = []
        for domain, some, every in _with_total(self._domains, self._scored, self._everything):
            metrics += [Metric(domain, name, value) for name, value in some.summary().items()]
            metrics += [Metric(domain, f"{name}_all_tokens", value) for name, value in every.summary().items()]
            if every.n:
                metrics.append(Metric(domain, "left_out_share", 1 - some.n / every.n))
        return metrics


def reconstruction_metrics(
    dictionary: Dictionary, batches: Iterable[ScoredBatch], domains: Sequence[str]
) -> list[Metric]:
    """All figures of one dictionary; see `Reconstruction.metrics`."""
    reconstruction = Reconstruction(dictionary, domains)
    for item in batches:
        reconstruction.update(item)
    return reconstruction.metrics()


def _with_total(
    domains: Sequence[str], scored: list[ReconstructionStats], everything: list[ReconstructionStats]
) -> Iterable[tuple[str | None, ReconstructionStats, ReconstructionStats]]:
    if not domains:
        return
    total = [ReconstructionStats(len(scored[0].sum_x), len(scored[0].fired)) for _ in range(2)]
    for some, every in zip(scored, everything, strict=True):
        total[0].merge(some)
        total[1].merge(every)
    yield None, total[0], total[1]
    yield from zip(domains, scored, everything, strict=True)
