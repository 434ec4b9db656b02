"""Which experts are chosen for the same token, beyond what their loads and k bring with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_rep.routing.analysis.intervals import Counts, Estimate, divided, jackknife

SWEEPS = 500
CLOSE = 1e-9


def conditional(pairs: Counts, n: Counts) -> NDArray[np.float64]:
    """P(other | expert) (e, e): tokens that chose both over the tokens of expert. A row sums to k - 1 (OLMoE, section 5.2).

    pairs: tokens that chose both (e, e), symmetric; n: tokens an expert (e).
    """
    return divided(pairs, n[:, None])


def expected_pairs(row_sums: Counts) -> NDArray[np.float64]:
    """Pairs (e, e) of an indifferent router: a_i a_j off the diagonal, with these row sums.

    A token never chooses an expert twice, so independence (n_i n_j / n) is out of reach, and a lift against it would be below
    1 even for a router that picks at random. Quasi-independence, the closest there is, keeps the loads and the empty
    diagonal (Goodman 1968); for k = 2 it is exactly the law of two draws without replacement.
    """
    row_sums = np.asarray(row_sums, dtype=np.float64)
    a = np.sqrt(row_sums / max(np.sqrt(row_sums.sum()), 1e-300)) if row_sums.any() else np.zeros_like(row_sums)
    for _ in range(SWEEPS):
        others = a.sum() - a
        new = np.sqrt(
            a * divided(row_sums, np.where(others > 0, others, np.nan))
        )  # the geometric mean damps oscillation
        new = np.nan_to_num(new)
        done = np.abs(new - a).max(initial=0) <= CLOSE * max(new.max(initial=0), 1e-300)
        a = new
        if done:
            break
    out = np.outer(a, a)
    np.fill_diagonal(out, 0)
    return out


def lift(pairs: Counts) -> NDArray[np.float64]:
    """Pairs over those of an indifferent router (e, e); NaN on the diagonal."""
    return divided(pairs, expected_pairs(pairs.sum(1)))


def coactivation(upper: Counts, upper_adjacent: Counts, n: Counts) -> tuple[dict[str, Any], Estimate]:
    """Columns of `expert_coact` of one layer, and the estimate of the lift.

    upper: (g, e, e), tokens that chose both, other > expert; upper_adjacent: those with neighbouring ranks; n: (e).
    """
    pairs = upper + upper.transpose(0, 2, 1)
    adjacent = (upper_adjacent + upper_adjacent.transpose(0, 2, 1)).sum(0)
    total = pairs.sum(0)
    estimate = jackknife(lift, pairs, low=0)
    expert, other = np.nonzero(~np.eye(len(n), dtype=bool))
    at = expert, other
    columns = {
        "expert": expert,
        "other": other,
        "n": total[at],
        "n_adjacent": adjacent[at],
        "p_other_given_expert": conditional(total, n)[at],
        "expected": expected_pairs(total.sum(1))[at],
        "lift": estimate.value[at],
        "lo": estimate.lo[at],
        "hi": estimate.hi[at],
    }
    return columns, estimate
