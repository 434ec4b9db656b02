"""A store of synthetic codes (`sparse_rep.synthetic`), which the benchmarks of the store and of the app share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sparse_rep.store import RunWriter, Store
from sparse_rep.synthetic import SyntheticCodes

DICTIONARY = CORPUS = "synthetic"
DOCS_A_SHARD = 32
Codes = tuple[np.ndarray, np.ndarray, np.ndarray]


def prepare(path: Path, rows: int) -> tuple[Store, SyntheticCodes]:
    """A store with the corpus and the dictionary's cfg.json, and the generator of about `rows` codes."""
    made = SyntheticCodes()
    n_docs = made.n_docs(rows)
    edges = np.arange(n_docs + 1, dtype=np.uint32) * np.uint32(made.doc_tokens)
    words = [f" word{i}" for i in range(made.vocabulary)]
    store = Store(path, create=True)
    store.put_corpus(
        CORPUS,
        token_ids=made.token_ids(n_docs * made.doc_tokens),
        docs={
            "doc": np.arange(n_docs, dtype=np.uint32),
            "tok_lo": edges[:-1],
            "tok_hi": edges[1:],
            "domain": [f"domain-{i % 4}" for i in range(n_docs)],
            "source": [f"document {i}" for i in range(n_docs)],
            "split": ["heldout" if i % 10 == 0 else "train" for i in range(n_docs)],
        },
        vocab={"token_id": np.arange(made.vocabulary, dtype=np.uint32), "piece": words, "text": words},
        meta={"made_by": "sparse_rep.synthetic"},
    )
    folder = store.dictionary_path(DICTIONARY)
    folder.mkdir(parents=True, exist_ok=True)
    cfg: dict[str, Any] = {"architecture": "topk", "d_in": 768, "d_sae": made.n_latents}
    cfg["metadata"] = {"model_name": "none: synthetic codes"}
    (folder / "cfg.json").write_text(json.dumps(cfg), "utf-8")
    return store, made


def open_run(store: Store, rows: int, name: str = "synthetic") -> RunWriter:
    return store.open_run(kind="extract", name=name, config={"rows": rows}, config_hash=f"{rows:08d}", corpus_id=CORPUS)


def shards(made: SyntheticCodes, rows: int) -> Iterator[tuple[str, dict[str, int], Codes]]:
    """(name, token range, codes) of each shard."""
    n_docs = made.n_docs(rows)
    for n, lo in enumerate(range(0, n_docs, DOCS_A_SHARD)):
        hi = min(lo + DOCS_A_SHARD, n_docs)
        span = {"tok_lo": lo * made.doc_tokens, "tok_hi": hi * made.doc_tokens}
        yield f"{n:06d}", span, made.codes(lo, hi)


def fill(run: RunWriter, made: SyntheticCodes, rows: int, around: Callable[[Callable[[], None]], None]) -> None:
    """Write every shard; `around` is given each write to call, so that making codes is not part of what it times."""
    for name, span, codes in shards(made, rows):
        around(lambda name=name, span=span, codes=codes: run.write_shard(name, **span, codes={DICTIONARY: codes}))
    run.finish()
