"""The page tables of routing, computed once when every shard of a run is there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from sparse_rep.routing.analysis.coactivation import coactivation
from sparse_rep.routing.analysis.counted import Choices, Ints, Routed, Router
from sparse_rep.routing.analysis.intervals import divided, jackknife
from sparse_rep.routing.analysis.load import load_metrics
from sparse_rep.routing.analysis.metric import Metric
from sparse_rep.routing.analysis.paths import expected_paths, next_layer_information, repeats, transitions
from sparse_rep.routing.analysis.specialisation import LEAST, domain_columns, label_columns, token_metrics
from sparse_rep.store import RunWriter, Store

MAX_TOKENS = 1 << 20
"""Counted at most; of longer texts every so many-th document is."""
SHUFFLED_TOKENS = 1 << 17
"""Tokens of the shuffles behind token-level nulls."""
TOKENS_AN_EXPERT = 20
PATHS = 200

Columns = dict[str, Any]


def write_analysis(run: RunWriter, store: Store, *, max_tokens: int = MAX_TOKENS) -> None:
    """Analyse a run whose `routes`, `routers` and `experts` are written, and add its page tables to it.

    Raises:
        DataError: the run names no corpus, or holds no routers.
    """
    for name, columns in analyse(store, run.run_id, max_tokens=max_tokens).items():
        run.write_table(name, columns)


def analyse(store: Store, run_id: str, *, max_tokens: int = MAX_TOKENS) -> dict[str, Columns]:
    """Columns by table: routing_metrics, expert_labels, expert_coact, expert_tokens, expert_transitions, expert_paths."""
    routed = Routed(store, run_id, max_tokens=max_tokens)
    found: dict[str, list[Columns]] = defaultdict(list)
    steps: list[Any] = []
    before: tuple[Router, Choices] | None = None
    for router in routed.routers:
        choices = routed.choices(router, SHUFFLED_TOKENS)
        for name, columns in _layer(routed, router, choices):
            found[name].append({"layer": router.layer, **columns})
        if before is not None:
            counts = _step(routed, before[0], router)
            steps.append(counts.sum(0))
            metric = next_layer_information(before[0], counts, *_aligned(before[1], choices))
            found["routing_metrics"].append(metric.row(before[0].layer))
            found["expert_transitions"].append(
                {"layer": before[0].layer, "next_layer": router.layer, **transitions(counts)}
            )
        before = (router, choices)
    if steps:
        found["expert_paths"].append(_paths(routed, steps))
    return {name: _joined(parts) for name, parts in found.items()}


def _layer(routed: Routed, router: Router, choices: Choices) -> Iterator[tuple[str, Columns]]:
    """Everything about one router by itself."""
    docs = routed.documents(router)
    experts = routed.plain("routing.mean_prob", layer=router.layer)
    mean_prob = np.full(router.n_experts, np.nan)
    mean_prob[experts["expert"]] = experts["mean_prob"]
    scatter = routed.ask("routing.weight_moments", layer=router.layer)
    moments = float(scatter["squares"][0]), float(scatter["squared_sums"][0])
    metrics = load_metrics(router, docs, mean_prob, moments)
    rows, about_domains = domain_columns(router, docs)
    rows += label_columns(router, routed.ask("routing.by_label", layer=router.layer))
    yield from (("expert_labels", columns) for columns in rows)
    metrics += about_domains
    metrics += token_metrics(router, choices, _labels(routed, choices))
    near = routed.by_group("routing.repeats", router, ("n_pairs", "n_first", "n_shared"))
    metrics += repeats(router, near, docs.n.sum(0), docs.n_first.sum(0), docs.n_tokens.sum())
    metrics += _margins(routed, router)
    yield from (("routing_metrics", metric.row(router.layer)) for metric in metrics)
    if router.k > 1:
        pairs = routed.ask("routing.pairs", layer=router.layer)
        upper, adjacent = (
            routed.spread(pairs, ("expert", "other"), value)[:, : router.n_experts, : router.n_experts]
            for value in ("n", "n_adjacent")
        )
        yield "expert_coact", coactivation(upper, adjacent, docs.n.sum(0))[0]
    for side in choices.ids:
        yield (
            "expert_tokens",
            routed.ask("routing.vocabulary", layer=router.layer, side=side, least=LEAST, limit=TOKENS_AN_EXPERT),
        )


def _margins(routed: Routed, router: Router) -> list[Metric]:
    counts = routed.by_group("routing.margins", router, ("n", "total"))
    n = int(counts[:, 0].sum())
    if n == 0:
        return []
    mean = jackknife(lambda c: divided(c[1], c[0]), counts)
    nothing = Metric.exactly(float("nan"))
    found = [Metric("margin_mean", "router score", mean, nothing, "none", n)]
    quantiles = routed.plain("routing.margin_quantiles", layer=router.layer)["quantiles"][0]
    for name, value in zip(("margin_p05", "margin_p50", "margin_p95"), quantiles, strict=True):
        found.append(Metric(name, "router score", Metric.exactly(float(value)), nothing, "none", n))
    return found


def _labels(routed: Routed, choices: Choices) -> dict[str, Ints]:
    """Numbers of labels (n) by labelling, for the tokens of `choices`."""
    rows = routed.ask("routing.labels")
    found = {}
    for labelling in sorted(set(rows["labelling"])):
        mine = rows["labelling"] == labelling
        numbers = np.unique(rows["label"][mine].astype(str), return_inverse=True)[1]
        order = np.argsort(rows["tok"][mine], kind="stable")
        tok = rows["tok"][mine][order]
        at = np.minimum(np.searchsorted(tok, choices.tok), max(len(tok) - 1, 0))
        found[labelling] = np.where(tok[at] == choices.tok, numbers[order][at], -1)
    return found


def _step(routed: Routed, router: Router, after: Router) -> Any:
    columns = ("expert", "next_expert")
    return routed.grid("routing.transitions", router, columns, "n", next_layer=after.layer)


def _aligned(a: Choices, b: Choices) -> tuple[Ints, Ints, Ints]:
    """Documents and first choices of the tokens that both routers saw."""
    _, here, there = np.intersect1d(a.tok, b.tok, assume_unique=True, return_indices=True)
    return a.doc[here], a.expert[here, 0], b.expert[there, 0]


def _paths(routed: Routed, steps: list[Any]) -> Columns:
    rows = routed.ask("routing.paths", n_layers=len(routed.routers), limit=PATHS)
    path, n = [str(p) for p in rows["path"]], rows["n"].astype(float)
    if not path:
        return {"rank": [], "path": [], "n": [], "share": [], "expected": [], "expected_markov": []}
    total = float(rows["n_tokens"][0])
    alone, chained = expected_paths(path, steps)
    return {
        "rank": np.arange(1, len(path) + 1),
        "path": path,
        "n": n,
        "share": n / total,
        "expected": alone * total,
        "expected_markov": chained * total,
    }


def _joined(parts: list[Columns]) -> Columns:
    """Columns of several layers below each other, as the store takes them; NaN becomes NULL."""
    rows = [
        max((len(v) for v in part.values() if hasattr(v, "__len__") and not isinstance(v, str)), default=1)
        for part in parts
    ]
    joined: Columns = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        arrays = []
        for part, n in zip(parts, rows, strict=True):
            value = part.get(name)
            listed = value if hasattr(value, "__len__") and not isinstance(value, str) else [value] * n
            array = np.asarray(listed)
            arrays.append(pa.array(array, from_pandas=True) if array.dtype.kind == "f" else pa.array(array.tolist()))
        joined[name] = pa.chunked_array([a.cast(_kind(arrays)) for a in arrays])
    return joined


def _kind(arrays: list[pa.Array]) -> pa.DataType:
    """The type that all parts fit: strings as they are, numbers as doubles, which the store casts to its columns'."""
    return pa.string() if any(pa.types.is_string(a.type) for a in arrays) else pa.float64()
