"""A store small enough to check by hand: two documents, and dictionaries whose codes are written down here."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparse_rep.activations import ActivationBatch
from sparse_rep.config_dictionary import ARCHITECTURES
from sparse_rep.progress import Reporter
from sparse_rep.saes.formats.stored import save_dictionary
from sparse_rep.saes.registry import build_coder
from sparse_rep.store import Store, seal

QUIET = Reporter(silent=True)
D, M, N = 6, 300, 140
"""Width, latents, tokens: documents of 100 and 40 tokens."""
WORDS = ["zero", " one", " two", "\n", "nul\x00"]
HOOK = "blocks.2.hook_resid_post"
ACTS = {(0, 100): 4.0, (0, 102): 2.0, (0, 60): 8.0, (5, 99): 0.00390625, (130, 7): 1.5, (130, 8): 0.5}
"""(feature, tok): act, each exact in bfloat16."""


def dictionary(kind: str, m: int = M, d_out: int | None = None, **settings: Any) -> Any:
    rng = torch.Generator().manual_seed(0)
    coder = build_coder(ARCHITECTURES[kind].checked({"kind": kind, "n_latents": m, **settings}), D, d_out=d_out)
    target = None if d_out is None else torch.randn(200, d_out, generator=rng)
    coder.initialise(ActivationBatch(torch.randn(200, D, generator=rng) * 9 + 1, target=target), rng)
    if kind in ("batchtopk", "matryoshka"):
        coder.threshold.value.fill_(0.3)
    return coder.eval()


def put(store: Store, name: str, coder: Any, hook: str = HOOK, **metadata: Any) -> None:
    save_dictionary(coder, store.dictionary_path(name), {"model_name": "org/tiny-it", "hook_name": hook, **metadata})


def encode(store: Store, name: str = "run", dictionaries: tuple[str, ...] = ("one",), sealed: bool = True) -> str:
    """A run in which the codes of every dictionary are ACTS."""
    feature, tok = (np.array(column, np.uint32) for column in zip(*ACTS, strict=True))
    act = np.array(list(ACTS.values()), np.float32)
    order = np.lexsort((tok, feature))
    config = {"text": {"sources": ["prose", "code"], "context": 25}}
    with store.open_run(kind="extract", name=name, config=config, config_hash="e" * 64, corpus_id="words") as run:
        run.write_shard(
            "000000", tok_lo=0, tok_hi=N, codes=dict.fromkeys(dictionaries, (feature[order], tok[order], act[order]))
        )
        near = {"feature": [0, 0], "rank": [2, 1], "other": [7, 299], "cosine": [0.25, 0.123456]}
        run.write_table("feature_neighbors", {"dictionary_id": ["one"] * 2, **near})
        logits = {"feature": [0] * 4, "sign": [1, 1, -1, -1], "rank": [2, 1, 1, 2], "token_id": [1, 4, 0, 2]}
        values = {"token": [" one", "nul\x00", "zero", " two"], "value": [0.5, 1.25, -2.0, -1.0]}
        run.write_table("feature_logits", {"dictionary_id": ["one"] * 4, **logits, **values})
        run.finish()
    if sealed:
        seal(store, run.run_id)
    return run.run_id


def corpus_only(path: Path) -> Store:
    """A store with a corpus of two documents and nothing else."""
    store = Store(path, create=True)
    docs = {"doc": [0, 1], "tok_lo": [0, 100], "tok_hi": [100, 140], "domain": ["prose"] * 2, "source": ["a", "b"]}
    vocab = {"token_id": list(range(5)), "piece": WORDS, "text": WORDS}
    store.put_corpus(
        "words",
        token_ids=np.arange(N, dtype=np.uint32) % 5,
        docs={**docs, "split": ["train"] * 2},
        vocab=vocab,
        meta={},
    )
    return store


def one_sealed(path: Path) -> Store:
    """The same with a dictionary `one` of a quantised model and a sealed run of its codes."""
    store = corpus_only(path)
    put(store, "one", dictionary("topk", k=4), sparse_rep_model_note="4-bit")
    encode(store)
    return store
