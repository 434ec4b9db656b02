"""Routers whose answers are known: planted ones, random ones, and their rows in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_rep.store import RunWriter, Store

CORPUS = "planted"
Chosen = NDArray[np.int64]
"""(layers, n, k): expert ids, the first choice first."""


def corpus(
    store: Store, *, n_docs: int = 60, doc_tokens: int = 40, n_domains: int = 4, n_ids: int = 12, seed: int = 0
) -> NDArray[np.int64]:
    """Documents of equal length, domain after domain in turn, tokens at random; returns each token's domain (n)."""
    rng = np.random.default_rng(seed)
    edges = np.arange(n_docs + 1) * doc_tokens
    domain = (np.arange(n_docs) // 2) % n_domains  # not in step with the 20 groups, so that each group sees several
    words = [f"w{i}" for i in range(n_ids)]
    store.put_corpus(
        CORPUS,
        token_ids=rng.integers(0, n_ids, n_docs * doc_tokens).astype(np.uint32),
        docs={
            "doc": np.arange(n_docs), "tok_lo": edges[:-1], "tok_hi": edges[1:],
            "domain": [f"d{i}" for i in domain], "source": [f"file {i}" for i in range(n_docs)], "split": ["heldout"] * n_docs,
        },
        vocab={"token_id": np.arange(n_ids), "piece": words, "text": words},
        meta={},
    )  # fmt: skip
    return np.repeat(domain, doc_tokens)


def by_domain(domain: NDArray[np.int64], n_layers: int = 1) -> Chosen:
    """Domain d always goes to experts 2d and 2d + 1, each first half of the time."""
    n = len(domain)
    flip = (np.arange(n) * 7919 >> 3) % 2
    pair = np.stack([2 * domain + flip, 2 * domain + 1 - flip], axis=1)
    return np.broadcast_to(pair, (n_layers, n, 2)).copy()


def at_random(n: int, n_experts: int, k: int, n_layers: int = 1, seed: int = 0) -> Chosen:
    """Every token picks k experts at random."""
    rng = np.random.default_rng(seed)
    return rng.random((n_layers, n, n_experts)).argsort(-1)[..., :k]


def rows(chosen: Chosen, layers: list[int], weight: NDArray[Any] | None = None) -> dict[str, Any]:
    """Columns of `routes`, sorted as a capture writes them; a choice of -1 is none (a dropped token)."""
    k = chosen.shape[2]
    layer, tok, rank = np.indices(chosen.shape)
    kept = chosen.ravel() >= 0
    weight = np.broadcast_to(np.arange(k, 0, -1) / (k * (k + 1) / 2), chosen.shape) if weight is None else weight
    margin = 0.1 + 0.001 * (tok % 10)
    return {
        "layer": np.array(layers)[layer].ravel()[kept], "tok": tok.ravel()[kept], "rank": rank.ravel()[kept] + 1,
        "expert": chosen.ravel()[kept], "weight": weight.ravel()[kept], "margin": margin.ravel()[kept],
    }  # fmt: skip


def routers(chosen: Chosen, n_experts: int, layers: list[int]) -> dict[str, Any]:
    _, n, k = chosen.shape
    return {
        "layer": layers, "module": [f"layers.{i}.mlp.gate" for i in layers], "n_experts": n_experts, "n_shared": 0, "k": k,
        "score": "softmax", "renormalised": True, "scale": 1.0, "source": "tests", "n_tokens": n,
        "entropy": 0.5 * np.log2(n_experts), "z_loss": 2.0,
    }  # fmt: skip


def experts(chosen: Chosen, n_experts: int, layers: list[int]) -> dict[str, Any]:
    n = np.stack([np.bincount(c[c >= 0], minlength=n_experts) for c in chosen])
    load = n / n.sum(1, keepdims=True)
    return {
        "layer": np.repeat(layers, n_experts), "expert": np.tile(np.arange(n_experts), len(layers)), "shared": False,
        "n_tokens": n.ravel(), "load": load.ravel(), "importance": load.ravel(), "mean_prob": load.ravel(),
    }  # fmt: skip


def open_run(store: Store, name: str, corpus_id: str = CORPUS, **facts: Any) -> RunWriter:
    return store.open_run(
        kind="routing", name=name, config={"name": name}, config_hash=name.encode().hex().ljust(64, "0"), corpus_id=corpus_id,
        **{"model": "toy", "model_revision": name, **facts},
    )  # fmt: skip


def write(
    store: Store, name: str, chosen: Chosen, n_experts: int, *, layers: list[int] | None = None,
    corpus_id: str = CORPUS, weight: NDArray[Any] | None = None, tables: dict[str, Any] | None = None, **facts: Any,
) -> str:  # fmt: skip
    """A complete run of these choices; its id."""
    from sparse_rep.routing.analysis import write_analysis

    layers = layers if layers is not None else list(range(len(chosen)))
    with open_run(store, name, corpus_id, **facts) as run:
        run.write_shard("000000", tok_lo=0, tok_hi=chosen.shape[1], tables={"routes": rows(chosen, layers, weight)})
        run.write_table("routers", routers(chosen, n_experts, layers))
        run.write_table("experts", experts(chosen, n_experts, layers))
        for table, columns in (tables or {}).items():
            run.write_table(table, columns)
        write_analysis(run, store)
        run.finish()
    return run.run_id


def fresh(path: Path) -> Store:
    return Store(path, create=True)
