"""A store with profiles of heads: real text, figures by hand.

`toy` at 512 tokens and at 128: 3 layers of 4 heads, four methods at two budgets and the paper's settings; head 2 of layer 1 looks
at the sink alone, and block_sparse has a high recall but a large error on it. `other`: 2 layers of 2 heads, no methods.
"""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sparse_rep.store import Store

HERE = Path(__file__).parent
LAYERS, HEADS = 3, 4
SINK = (1, 2)
METHODS = ("block_sparse", "random_blocks", "vertical_slash", "quest")
BUDGETS = (0.1, 0.2, None)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


detectors = _load(HERE / "detector_store.py")


def heads(n_layers: int, n_heads: int, length: int) -> dict[str, Any]:
    rng = np.random.default_rng(length)
    n = n_layers * n_heads
    layer, head = np.divmod(np.arange(n), n_heads)
    sink = rng.uniform(0.05, 0.4, n)
    kind = np.array(["local", "columns", "diagonals", "diffuse"])[head % 4].astype(object)
    if n_layers > SINK[0] and n_heads > SINK[1]:
        at = SINK[0] * n_heads + SINK[1]
        sink[at], kind[at] = 0.97, "sink-local"
    return {
        "layer": layer, "head": head, "kv_head": head // 2, "length": length, "n_texts": 2, "window": None, "sink": sink,
        "learned_sink": 0.0, "local": rng.uniform(0.1, 0.6, n), "previous": rng.uniform(0, 0.3, n),
        "induction": rng.uniform(0, 0.2, n), "induction_chance": 0.02, "distance": rng.uniform(10, length / 2, n),
        "entropy": rng.uniform(0.5, 5, n), "keys90": 10.0 + layer, "keys95": 20.0 + layer, "keys99": 50.0 + layer,
        "n_queries": 64, "class": kind.tolist(), "class_recall": rng.uniform(0.4, 0.99, n),
        "class_margin": rng.uniform(0, 0.2, n), "class_budget": 0.1, "write_norm": rng.uniform(0.1, 2, n),
        "write_share": 1 / n_heads,
    }  # fmt: skip


def methods(length: int) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = {}

    def add(**row: Any) -> None:
        for name, value in row.items():
            table.setdefault(name, []).append(value)

    for layer in range(LAYERS):
        for head in range(HEADS):
            for m, method in enumerate(METHODS):
                for budget in BUDGETS:
                    density = budget or 0.5
                    recall = min(0.3 + 0.15 * m + density + 0.01 * head, 0.99)
                    error = 1 - recall
                    if method == "block_sparse" and (layer, head) == SINK:
                        recall, error = 0.95, 0.6
                    add(
                        layer=layer, head=head, length=length, n_texts=2, method=method, config="{}", budget=budget,
                        density=density, block_density=min(2 * density, 1.0), recall_mean=recall, recall_p5=recall - 0.1,
                        rows_below_90=1 - recall, recall_rest=recall - 0.05, oracle=min(recall + 0.02, 1.0),
                        granularity="token" if method == "vertical_slash" else "block", out_err=error, bound=0.4,
                        pairs_read=0.01, first_row=384 if method == "quest" else 0,
                        applies="decode" if method == "quest" else "prefill", reason="", notes="{}",
                    )  # fmt: skip
            add(
                layer=layer, head=head, length=length, n_texts=2, method="sparsed", config="{}", budget=None, density=None,
                block_density=None, recall_mean=None, recall_p5=None, rows_below_90=None, recall_rest=None, oracle=None,
                granularity=None, out_err=None, bound=None, pairs_read=None, first_row=None, applies="n/a",
                reason="wants the denoising steps of a diffusion model", notes="{}",
            )  # fmt: skip
    return table


def of_one_head(length: int) -> dict[str, dict[str, Any]]:
    """Distances of every head, and a map, links and effects of the sink head, on the text from token 0."""
    edges = [0, 1, *(2**i for i in range(1, length.bit_length()))]
    at = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
    bins = list(pairwise(edges))
    blocks = length // 128
    layer, head = SINK
    here = {"layer": layer, "head": head, "length": length, "tok_lo": 0}
    queries = [40, 100, length - 2]
    return {
        "head_distances": {
            "layer": [i for i, _ in at for _ in bins], "head": [h for _, h in at for _ in bins], "length": length, "tok_lo": 0,
            "lo": [lo for _ in at for lo, _ in bins], "hi": [hi for _ in at for _, hi in bins], "mass": 1 / len(bins),
        },
        "head_maps": {
            **here, "block": 128, "q_block": list(range(blocks)),
            "mass": [[0.9] + [0.1 / i] * i if i else [1.0] for i in range(blocks)],
        },
        "head_links": {
            **here, "tok": [q for q in queries for _ in range(3)], "rank": [1, 2, 3] * 3,
            "key_tok": [k for q in queries for k in (None, 2, q - 1)], "mass": [0.8, 0.1, 0.05] * 3,
        },
        "head_effects": {
            "layer": [None, layer], "head": [None, head], "length": length, "n_texts": 2, "method": "vertical_slash",
            "config": "{}", "budget": 0.1, "loss_dense": 3.0, "loss": [3.2, 3.01], "kl": [0.15, 0.008],
        },
    }  # fmt: skip


def write(store: Store, name: str, tables: dict[str, Any], **facts: Any) -> str:
    identity = {"config": {"name": name}, "config_hash": name.encode().hex().ljust(64, "0"), "model_revision": "r1"}
    with store.open_run(kind="heads", name=name, corpus_id=detectors.CORPUS, **identity, **facts) as run:
        run.write_shard("000000", tok_lo=0, tok_hi=512, tables={})
        for table, columns in tables.items():
            run.write_table(table, columns)
        run.finish()
    return run.run_id


def build(path: Path) -> Store:
    store = detectors.build(path)
    write(store, "other", {"heads": heads(2, 2, 512)}, model="another-model")
    for length in (128, 512):
        tables = {"heads": heads(LAYERS, HEADS, length), "head_methods": methods(length), **of_one_head(length)}
        write(store, f"toy-{length}", tables, model="toy-model")
    return store
