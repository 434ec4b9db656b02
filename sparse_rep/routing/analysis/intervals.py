"""Intervals and nulls that several figures share.

Tokens of one document resemble each other, so an interval that takes them for independent is far too narrow. Ours come from a
jackknife that leaves out one group of documents after the other (Kott 2001, "The delete-a-group jackknife"): it needs counts
by group only, which SQL gives, and it is sound for plug-in entropies, where a bootstrap would resample their bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

GROUPS = 20
"""Groups of documents; `store/sql/queries/routing.sql` splits its counts by as many."""
LEAST_GROUPS = 5
"""With fewer there is no interval: it would be wider than it is worth."""

Counts = NDArray[np.float64]


class Estimate(NamedTuple):
    """A figure, or an array of them, with the ends of its 95 % interval (NaN where there are too few documents)."""

    value: NDArray[np.float64]
    lo: NDArray[np.float64]
    hi: NDArray[np.float64]


def jackknife(
    statistic: Callable[..., NDArray[np.float64] | float],
    *parts: Counts,
    low: float = -np.inf,
    high: float = np.inf,
) -> Estimate:
    """`statistic` of counts summed over groups, with an interval clipped to [low, high].

    parts: arrays (g, ...) of counts by group; groups without anything in the first one are left aside.
    """
    seen = parts[0].reshape(len(parts[0]), -1).sum(1) > 0
    parts = tuple(part[seen] for part in parts)
    totals = [part.sum(0) for part in parts]
    value = np.asarray(statistic(*totals), dtype=np.float64)
    g = int(seen.sum())
    if g < LEAST_GROUPS:
        nothing = np.full_like(value, np.nan)
        return Estimate(value, nothing, nothing)
    without = np.stack([
        np.asarray(statistic(*(total - part[i] for total, part in zip(totals, parts, strict=True)))) for i in range(g)
    ])  # fmt: skip
    half = student(g - 1) * np.sqrt((g - 1) * without.var(0))
    return Estimate(value, np.clip(value - half, low, high), np.clip(value + half, low, high))


def student(degrees: int) -> float:
    """0.975 quantile of Student's t, by its expansion in 1/degrees (Abramowitz & Stegun 26.7.5): within 0.3 % from 4 on."""
    z = 1.959963984540054
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / degrees ** (i + 1) for i, term in enumerate(terms))


def divided(n: NDArray[np.float64], by: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """n / by, NaN where by is 0."""
    n, by = np.broadcast_arrays(np.asarray(n, dtype=np.float64), np.asarray(by, dtype=np.float64))
    return np.divide(n, by, out=np.full(n.shape, np.nan), where=by != 0)


def uniform_loads(n_tokens: int, n_experts: int, k: int, draws: int, rng: np.random.Generator) -> Counts:
    """Tokens an expert (draws, e) of a router that picks k of its experts at random for every token.

    Each count has variance n p (1 - p) with p = k / e.
    """
    p = k / n_experts
    return _even(n_tokens * p, n_tokens * p * (1 - p), n_experts, draws, rng)


def uniform_weights(
    total: float, squares: float, squared_sums: float, n_experts: int, draws: int, rng: np.random.Generator
) -> Counts:
    """Summed weight an expert (draws, e) of a router that gives each token's weights to experts at random.

    total: all weight; squares: sum of squared weights; squared_sums: sum over tokens of their squared summed weight. A token
    with weights w adds variance sum(w^2) / e - (sum(w) / e)^2 to every expert.
    """
    return _even(total / n_experts, squares / n_experts - squared_sums / n_experts**2, n_experts, draws, rng)


def _even(mean: float, variance: float, n_experts: int, draws: int, rng: np.random.Generator) -> Counts:
    """Normal deviates for sums over tokens, whose exact draws would cost a draw a token; any two experts have the covariance
    that keeps the sum over all experts where it is."""
    z = rng.standard_normal((draws, n_experts))
    z -= z.mean(1, keepdims=True)
    return np.maximum(mean + np.sqrt(max(variance, 0) * n_experts / max(n_experts - 1, 1)) * z, 0)


def central(draws: NDArray[np.float64]) -> Estimate:
    """Mean and central 95 % of a null's draws (draws, ...)."""
    lo, hi = np.quantile(draws, [0.025, 0.975], axis=0)
    return Estimate(draws.mean(0), lo, hi)
