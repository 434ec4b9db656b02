"""Every architecture at several sparsities on the same tokens: what each reconstructs, and what it costs the model.

Two sweeps, since sparsity is counted in one family and steered to in the other. Within a sweep all dictionaries see the same
batches; the two see the same activations in the same order of chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparse_rep.config import TrainConfig
from sparse_rep.config_dictionary import ARCHITECTURES, PenaltySettings
from sparse_rep.errors import DataError
from sparse_rep.jobs.sweep import members
from sparse_rep.jobs.training import train_dictionaries
from sparse_rep.progress import Reporter
from sparse_rep.store import Store

RATE = 1e-2
"""How fast penalties follow their target: ten times the default, for runs of hundreds of steps rather than thousands."""


def pareto_sweeps(base: TrainConfig, levels: Sequence[int]) -> list[TrainConfig]:
    """`base` as two sweeps over every architecture and active latents a token; its dictionary gives the size alone."""
    steered = [kind for kind, settings in ARCHITECTURES.items() if issubclass(settings, PenaltySettings)]
    counted = [kind for kind in ARCHITECTURES if kind not in steered]
    size = base.dictionary.n_latents
    ramp = {"penalty_rate": RATE, "penalty_warmup_tokens": base.n_tokens // 20}
    return [
        _sweep(base, {"kind": counted[0], "n_latents": size}, counted, "k", levels),
        _sweep(base, {"kind": steered[0], "n_latents": size, **ramp}, steered, "target_l0", levels),
    ]


def run_pareto(base: TrainConfig, levels: Sequence[int], reporter: Reporter) -> list[dict[str, Any]]:
    """Train both sweeps into the store; a row a dictionary: method, aimed_l0, its id and its metrics on held-out text.

    What is trained already is not trained again. Raises ConfigError for settings that cannot work, DataError where the text
    changed between the sweeps, as that of installed packages does when one is installed.
    """
    rows: list[dict[str, Any]] = []
    for config in pareto_sweeps(base, levels):
        for member, trained in zip(members(config).values(), train_dictionaries(config, reporter), strict=True):
            settings = member.dictionary
            aim = settings.target_l0 if isinstance(settings, PenaltySettings) else getattr(settings, "k")  # noqa: B009
            rows.append({"method": settings.kind, "aimed_l0": aim, **trained})
    _require_one_corpus(base, {row["run_id"] for row in rows})
    return rows


def _require_one_corpus(base: TrainConfig, runs: set[str]) -> None:
    found = Store(base.store).query("SELECT run_id, corpus_id FROM runs").to_pylist()
    read = {row["corpus_id"] for row in found if row["run_id"] in runs}
    if len(read) > 1:
        raise DataError(
            f"the text changed between the two sweeps, which read {' and '.join(sorted(read))}: "
            "run again into a new store, on text that stays as it is (--text)"
        )


def _sweep(
    base: TrainConfig, dictionary: dict[str, Any], kinds: Sequence[str], sparsity: str, levels: Sequence[int]
) -> TrainConfig:
    varied = {"dictionary.kind": tuple(kinds), f"dictionary.{sparsity}": tuple(levels)}
    name = f"{base.name or 'pareto'}-{sparsity.removeprefix('target_')}"
    return TrainConfig.checked(
        {**base.model_dump(exclude_unset=True), "name": name, "dictionary": dictionary, "sweep": varied}
    )
