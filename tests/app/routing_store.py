"""A store with routing: hand-written detectors on real text, and mixtures whose routers read those detectors.

`final`: 4 layers of 16 experts, 2 a token, chosen by what the detectors see, the token and the domain; one expert of layer 2 is
dead, one of layer 1 hot. `step-100`: an earlier checkpoint, half noise. `other`: a model of 2 layers of 8 experts. Ablations of
one expert are written beside.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sparse_rep.store import Store

HERE = Path(__file__).parent
LAYERS, EXPERTS, K = [1, 2, 3, 5], 16, 2
DEAD, HOT = (2, 7), (1, 3)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


planted = _load(HERE.parent / "routing" / "planted.py")
detectors = _load(HERE / "detector_store.py")


def logits(store: Store, n_layers: int, n_experts: int, seed: int) -> np.ndarray:
    """(layers, n, experts) from detectors, token ids and domains."""
    rng = np.random.default_rng(seed)
    ids = store.corpus_tokens(detectors.CORPUS)
    codes = np.zeros((len(ids), len(detectors.DETECTORS)))
    acts = store.query("SELECT tok, feature, act FROM acts WHERE dictionary_id = $d", d=detectors.BIG)
    codes[acts["tok"].to_numpy(), acts["feature"].to_numpy()] = np.sqrt(acts["act"].to_numpy())
    docs = store.corpus_docs(detectors.CORPUS).to_pylist()
    prose = np.zeros(len(ids))
    for doc in docs:
        prose[doc["tok_lo"] : doc["tok_hi"]] = doc["domain"] != "stdlib"
    seen = np.einsum("nf,lfe->lne", codes, rng.normal(size=(n_layers, codes.shape[1], n_experts)))
    words = rng.normal(size=(n_layers, int(ids.max()) + 1, n_experts))[:, ids]
    domain = np.einsum("n,le->lne", prose, rng.normal(size=(n_layers, n_experts)))
    return 0.35 * seen + 0.8 * words + 1.2 * domain + 0.5 * rng.normal(size=seen.shape)


def choose(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Chosen experts and their renormalised weights, (layers, n, k) each."""
    chosen = np.argsort(-scores, -1)[..., :k]
    weight = np.exp(np.take_along_axis(scores, chosen, -1))
    return chosen, weight / weight.sum(-1, keepdims=True)


def ablations(domains: list[str]) -> dict[str, dict[str, Any]]:
    change = [0.031, 0.058, -0.004]
    return {
        "expert_ablations": {
            "layer": 1, "expert": 3, "domain": [None, *domains], "n_tokens": [9000, 6000, 3000], "loss": [3.1, 2.9, 3.5],
            "loss_ablated": [3.1 + change[0], 2.9 + change[1], 3.5 + change[2]], "change": change,
            "lo": [c - 0.01 for c in change], "hi": [c + 0.01 for c in change],
        },
        "expert_ablation_features": {
            "layer": 1, "expert": 3, "dictionary_id": detectors.BIG, "feature": [4, 7], "n_before": [100, 50],
            "n_after": [80, 60], "mass_before": [500.0, 80.0], "mass_after": [400.0, 100.0],
        },
    }  # fmt: skip


def build(path: Path) -> Store:
    store = detectors.build(path)
    scores = logits(store, len(LAYERS), EXPERTS, seed=1)
    scores[LAYERS.index(DEAD[0]), :, DEAD[1]] = -1e9
    scores[LAYERS.index(HOT[0]), :, HOT[1]] += 1.5
    noise = np.random.default_rng(9).normal(size=scores.shape)
    mixed = 0.5 * scores + 1.0 * noise
    early, weight = choose(mixed, K)
    planted.write(
        store, "step-100", early, EXPERTS, weight=weight, layers=LAYERS, corpus_id=detectors.CORPUS, model="toy-mixture"
    )
    other, weight = choose(logits(store, 2, 8, seed=5), 2)
    planted.write(
        store, "other", other, 8, layers=[0, 1], corpus_id=detectors.CORPUS, weight=weight, model="another-mixture"
    )
    chosen, weight = choose(scores, K)
    planted.write(
        store, "final", chosen, EXPERTS, layers=LAYERS, corpus_id=detectors.CORPUS, weight=weight, model="toy-mixture",
        tables=ablations(["stdlib", "pip-readmes"]),
    )  # fmt: skip
    return store


if __name__ == "__main__":
    build(Path(sys.argv[1]))
