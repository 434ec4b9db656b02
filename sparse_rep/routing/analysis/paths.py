"""How choices follow each other: from token to token, and through the layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_rep.routing.analysis.counted import Ints, Router
from sparse_rep.routing.analysis.information import mutual_information, rotations, table
from sparse_rep.routing.analysis.intervals import Counts, Estimate, central, divided, jackknife
from sparse_rep.routing.analysis.metric import Metric

ROTATIONS = 40
INDEPENDENT = "neighbouring tokens that choose independently, with these loads"
TURNED = "the next router's choices turned within each document"


def repeats(router: Router, counts: Counts, n: Counts, n_first: Counts, n_tokens: float) -> list[Metric]:
    """Neighbouring tokens with the same first choice, and the share of choices they have in common.

    counts: (g, 3): pairs, pairs with the same first choice, shared choices; n, n_first: tokens an expert (e).
    With equal loads independent tokens share a first choice 1 / e of the time (Mixtral, arXiv 2401.04088, section 5).
    """
    n_pairs = int(counts[:, 0].sum())
    if n_pairs == 0:
        return []
    first = divided(n_first, n_first.sum())
    chance = float((first**2).sum())
    shared = float((divided(n, n_tokens) ** 2).sum() / router.k)
    found = []
    for name, column, per, null in (("repeat_first", 1, 1, chance), ("repeat_any", 2, router.k, shared)):
        estimate = jackknife(lambda c, column=column, per=per: c[column] / (per * c[0]), counts, low=0, high=1)
        half = 1.96 * np.sqrt(null * (1 - null) / (n_pairs * per))
        band = Estimate(np.asarray(null), np.asarray(max(null - half, 0)), np.asarray(min(null + half, 1)))
        unit = "share of neighbours" if per == 1 else "share of choices"
        found.append(Metric(name, unit, estimate, band, INDEPENDENT, n_pairs))
    return found


def transitions(counts: Counts) -> dict[str, Any]:
    """Columns of `expert_transitions` for one pair of layers, those that happen.

    counts: (g, e, e'), tokens by first choice here and there.
    """

    def lift(joint: Counts) -> NDArray[np.float64]:
        return divided(joint, _independent(joint))

    total = counts.sum(0)
    estimate = jackknife(lift, counts, low=0)
    at = np.nonzero(total)
    return {
        "expert": at[0],
        "next_expert": at[1],
        "n": total[at],
        "p": divided(total, total.sum(1, keepdims=True))[at],
        "expected": _independent(total)[at],
        "lift": estimate.value[at],
        "lo": estimate.lo[at],
        "hi": estimate.hi[at],
    }


def next_layer_information(router: Router, counts: Counts, doc: Ints, here: Ints, there: Ints) -> Metric:
    """Bits that the first choice at one router holds about that at the next.

    counts: (g, e, e'); doc, here, there: (n) documents and first choices of a sample, for the null.
    """
    n_experts = counts.shape[1]
    rng = np.random.default_rng(router.layer)
    null = [
        mutual_information(table(here[:, None], there[order], n_experts, n_experts))
        for order in rotations(doc, ROTATIONS, rng)
    ]
    estimate = jackknife(mutual_information, counts)
    return Metric("mi_next_layer", "bits", estimate, central(np.array(null)), TURNED, int(counts.sum()))


def expected_paths(paths: list[str], steps: list[Counts]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of paths (p) of routers that choose independently, and of ones that look back one layer only (a Markov chain).

    paths: experts from the first router to the last, joined by `-`; steps: (e, e') counts from each router to the next.
    """
    experts = np.array([[int(e) for e in path.split("-")] for path in paths]).reshape(len(paths), -1)
    marginals = [step.sum(1) / step.sum() for step in steps] + [steps[-1].sum(0) / steps[-1].sum()]
    alone = np.prod([m[experts[:, i]] for i, m in enumerate(marginals)], axis=0)
    chained = marginals[0][experts[:, 0]]
    for i, step in enumerate(steps):
        chained = chained * divided(step, step.sum(1, keepdims=True))[experts[:, i], experts[:, i + 1]]
    return alone, np.nan_to_num(chained)


def pathway_components(first: Ints, n_experts: int, n_components: int = 12) -> NDArray[np.float64]:
    """MoE-LLaVA's pathways (arXiv 2401.15947, its scripts): principal components over layers, scaled to expert ids.

    first: (n, layers) first choices. Returns (components, layers), each a path between 0 and n_experts - 1. It treats ids as
    numbers, so renaming experts changes it; path counts and `next_layer_information` do not have that fault.
    """
    x = first.T.astype(np.float64)
    x = x - x.mean(0)
    left, scale, _ = np.linalg.svd(x, full_matrices=False)
    scores = (left * scale)[:, : min(n_components, len(scale))].T
    low, high = scores.min(1, keepdims=True), scores.max(1, keepdims=True)
    return np.nan_to_num(divided(scores - low, high - low)) * (n_experts - 1)


def _independent(joint: Counts) -> NDArray[np.float64]:
    return np.outer(joint.sum(1), joint.sum(0)) / max(joint.sum(), 1)
