"""How evenly a router spreads its tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_rep.routing.analysis.counted import Documents, Router
from sparse_rep.routing.analysis.intervals import Counts, central, divided, jackknife, uniform_loads, uniform_weights
from sparse_rep.routing.analysis.metric import Metric

DRAWS = 1000
UNIFORM = "a router that picks k experts at random"


def load_entropy(n: Counts) -> NDArray[np.float64]:
    """Entropy of loads or summed weights (..., e) over log e: 1 when all are equal, 0 when one expert gets everything."""
    p = divided(n, n.sum(-1, keepdims=True))
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)
    return -terms.sum(-1) / np.log(max(n.shape[-1], 2))


def max_over_mean(n: Counts) -> NDArray[np.float64]:
    """The busiest expert's tokens over the mean (load violation)."""
    return divided(n.max(-1), n.mean(-1))


def dead_experts(n: Counts) -> NDArray[np.float64]:
    """Experts that no token chose."""
    return (n == 0).sum(-1).astype(float)


def balance_loss(n: Counts, probability: Counts) -> NDArray[np.float64]:
    """e * sum_i f_i P_i, f and P both normalised to sum 1: 1 when either is uniform, e when one expert gets everything.

    Switch Transformers (arXiv 2101.03961, eq. 4); with f as the share of *tokens* (OLMoE) it is k times this.
    """
    f = divided(n, n.sum(-1, keepdims=True))
    p = divided(probability, probability.sum(-1, keepdims=True))
    return n.shape[-1] * (f * p).sum(-1)


def load_metrics(router: Router, docs: Documents, mean_prob: Counts, moments: tuple[float, float]) -> list[Metric]:
    """Evenness of loads and importance against a router that picks at random.

    mean_prob: mean probability an expert (e), NaN where only ids are known; then the balance loss is that of the weights.
    moments: the answer of `routing.weight_moments`.
    """
    n_tokens = int(docs.n_tokens.sum())
    rng = np.random.default_rng(router.layer)
    null = uniform_loads(n_tokens, router.n_experts, router.k, DRAWS, rng)
    grouped = docs.grouped(docs.n)
    found = []
    for name, unit, statistic, low, high in (
        ("load_entropy", "share of log experts", load_entropy, 0.0, 1.0),
        ("max_over_mean", "ratio", max_over_mean, 1.0, float(router.n_experts)),
        ("dead_experts", "experts", dead_experts, 0.0, float(router.n_experts)),
    ):
        estimate = jackknife(statistic, grouped, low=low, high=high)
        found.append(Metric(name, unit, estimate, central(statistic(null)), UNIFORM, n_tokens))
    weights = docs.grouped(docs.weight)
    if weights.any():
        even = uniform_weights(weights.sum(), *moments, router.n_experts, DRAWS, rng)
        estimate = jackknife(load_entropy, weights, low=0, high=1)
        null_entropy = central(load_entropy(even))
        found.append(Metric("importance_entropy", "share of log experts", estimate, null_entropy, UNIFORM, n_tokens))
        estimate = jackknife(balance_loss, grouped, weights, low=0)
        found.append(Metric("balance_loss_chosen", "ratio", estimate, Metric.exactly(1.0), UNIFORM, n_tokens))
    if np.isfinite(mean_prob).all():
        value = Metric.exactly(float(balance_loss(docs.n.sum(0), mean_prob)))
        found.append(Metric("balance_loss", "ratio", value, Metric.exactly(1.0), UNIFORM, n_tokens))
    for name, unit, value, indifferent, said in (
        ("z_loss", "nats squared", router.z_loss, np.log(router.n_experts) ** 2, "a router whose logits are all 0"),
        ("router_entropy", "bits", router.entropy, np.log2(router.n_experts), "a router with equal probabilities"),
    ):
        if np.isfinite(value):
            found.append(Metric(name, unit, Metric.exactly(value), Metric.exactly(indifferent), said, n_tokens))
    return found
