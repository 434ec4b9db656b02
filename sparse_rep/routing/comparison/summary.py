"""What many trials say together: medians with intervals, the best trial, and how one gate compares with another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparse_rep.routing.comparison.ensemble import Outcome
from sparse_rep.routing.comparison.tasks import Task

RESAMPLES = 10_000


def summary(task: Task, gate: str, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """One row: the test scores of all trials, and the one that would be chosen."""
    scores = outcome.test.double().numpy()
    chosen = int(outcome.validation.argmax())
    row: dict[str, Any] = {
        "task": task.name,
        "gate": gate,
        "trials": len(scores),
        "median": float(np.median(scores)),
        "median_interval": interval(scores),
        "quartiles": [float(q) for q in np.quantile(scores, [0.25, 0.75])],
        "chosen": float(scores[chosen]),
        "best": float(scores.max()),
        "median_as_trained": float(outcome.test_as_trained.double().median()),
        "experts_used": float(outcome.experts_used.median()),
        "trials_within_k": float((outcome.experts_used <= task.k).double().mean()),
        "seconds": round(seconds, 2),
    }
    if task.test.regime is not None:
        found = [normalised_information(top, task.test.regime) for top in outcome.top_expert]
        row["regime_information"] = float(np.median(found))
    return row


def contrast(task: Task, outcomes: dict[str, Outcome], gate: str, other: str) -> dict[str, Any]:
    """Median of one gate minus median of another, with the interval of that difference."""
    a, b = (outcomes[name].test.double().numpy() for name in (gate, other))
    random = np.random.default_rng(0)
    medians = [np.median(s[random.integers(len(s), size=(RESAMPLES, len(s)))], axis=1) for s in (a, b)]
    low, high = np.quantile(medians[0] - medians[1], [0.025, 0.975])
    return {
        "task": task.name,
        "contrast": f"{gate} - {other}",
        "difference_of_medians": float(np.median(a) - np.median(b)),
        "interval": [float(low), float(high)],
    }


def interval(values: np.ndarray) -> list[float]:
    """95 % bootstrap interval of the median over trials."""
    random = np.random.default_rng(0)
    medians = np.median(values[random.integers(len(values), size=(RESAMPLES, len(values)))], axis=1)
    return [float(q) for q in np.quantile(medians, [0.025, 0.975])]


def normalised_information(a: Tensor, b: Tensor) -> float:
    """Mutual information of two labellings over the larger of their entropies: 1 where they agree but for names."""
    table = torch.zeros(int(a.max()) + 1, int(b.max()) + 1, dtype=torch.double)
    table.index_put_((a, b), torch.ones(len(a), dtype=torch.double), accumulate=True)
    p = table / table.sum()
    entropies = [_entropy(p.sum(1)), _entropy(p.sum(0))]
    return (sum(entropies) - _entropy(p.flatten())) / max(*entropies, 1e-12)


def _entropy(p: Tensor) -> float:
    return float(-(p * p.where(p > 0, 1).log()).sum())
