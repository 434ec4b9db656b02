"""What the tests of the store share: a random store small enough for brute force, and the job that crash tests kill.

An importable module rather than fixtures, because child processes import it too.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import resource
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_rep.errors import SparseRepError
from sparse_rep.store import RunWriter, Store, export, seal

DICTIONARY = "d"
RUN = "small-00000000"
WORDS = ["a", "b", " c", "\n", "e", "f", "g"]


def open_run(store: Store, name: str = "small", **fields: Any) -> RunWriter:
    return store.open_run(kind="extract", name=name, config={"name": name}, config_hash="0" * 64, **fields)


def one_code(feature: int = 0, tok: int = 0, act: float = 1.0) -> tuple[NDArray, NDArray, NDArray]:
    return np.array([feature], np.uint32), np.array([tok], np.uint32), np.array([act], np.float32)


def sparse(matrix: NDArray[np.float32], tok_lo: int = 0) -> tuple[NDArray, NDArray, NDArray]:
    """feature, tok, act of a dense matrix (n, m), token by token."""
    tok, feature = np.nonzero(matrix)
    return feature.astype(np.uint32), (tok + tok_lo).astype(np.uint32), matrix[tok, feature]


@dataclass
class Small:
    """400 tokens in 9 documents of 2 domains, the first 360 of them encoded by 24 latents in 3 shards."""

    acts: NDArray[np.float32]
    """(360, 24): what the store should say. Multiples of 1/8 up to 2, so exact in bf16 and full of ties; the last four latents
    are dead, latent 3 is signed, latent 4 fires nearly everywhere."""
    token_ids: NDArray[np.uint32]
    docs: dict[str, list]
    path: Path = field(default_factory=Path)
    bounds: tuple[int, ...] = (0, 100, 230, 360)

    @classmethod
    def random(cls, seed: int) -> Small:
        rng = np.random.default_rng(seed)
        density = np.concatenate([rng.uniform(0.02, 0.4, 20), np.zeros(4)])
        density[4] = 0.95
        acts = (rng.random((360, 24)) < density) * rng.integers(1, 17, (360, 24)) / 8
        acts[:, 3] *= rng.choice([-1, 1], 360)
        edges = [0, *sorted(rng.choice(np.arange(1, 400), 8, replace=False).tolist()), 400]
        docs = {
            "doc": list(range(9)),
            "tok_lo": edges[:-1],
            "tok_hi": edges[1:],
            "domain": ["prose" if i % 3 else "code" for i in range(9)],
            "source": [f"file {i}" for i in range(9)],
            "split": ["train"] * 9,
        }
        return cls(acts.astype(np.float32), rng.integers(0, len(WORDS), 400).astype(np.uint32), docs)

    @property
    def store(self) -> Store:
        return Store(self.path)

    @property
    def n(self) -> int:
        return len(self.acts)

    @property
    def doc_of(self) -> NDArray[np.int64]:
        return np.searchsorted(self.docs["tok_lo"], np.arange(400), side="right") - 1

    def write(self, path: Path, *, sealed: bool, order: Iterable[int] = (2, 0, 1), **options: Any) -> Store:
        self.path = path
        store = Store(path, create=True)
        vocab = {"token_id": list(range(len(WORDS))), "piece": WORDS, "text": WORDS}
        store.put_corpus("text", token_ids=self.token_ids, docs=self.docs, vocab=vocab, meta={"seed": 7})
        (store.dictionary_path(DICTIONARY)).mkdir(parents=True)
        (store.dictionary_path(DICTIONARY) / "cfg.json").write_text('{"d_in": 4, "d_sae": 24, "architecture": "topk"}')
        with open_run(store, corpus_id="text") as run:
            for i in order:
                lo, hi = self.bounds[i], self.bounds[i + 1]
                codes = {DICTIONARY: sparse(self.acts[lo:hi], lo)}
                run.write_shard(f"{i:06d}", tok_lo=lo, tok_hi=hi, codes=codes)
            run.finish()
        if sealed:
            seal(store, RUN, **options)
        return store

    def rows(self, table: str, feature: int) -> list[dict[str, Any]]:
        sql = f"SELECT * FROM {table} WHERE feature = $feature ORDER BY ALL"
        return self.store.query(sql, feature=feature).to_pylist()


JOB_SHARDS = 4
JOB_TOKENS = 500
JOB_LATENTS = 64


def job_acts() -> Iterator[NDArray[np.float32]]:
    """Dense matrices of the job's shards, from a seed."""
    for shard in range(JOB_SHARDS):
        rng = np.random.default_rng(shard)
        shape = (JOB_TOKENS, JOB_LATENTS)
        yield ((rng.random(shape) < 0.2) * rng.integers(1, 100, shape)).astype(np.float32)


def job(path: Path) -> None:
    """Write every shard that is not there, then seal: what a person would run again after a crash."""
    store = Store(path, create=True)
    with open_run(store) as run:
        if not run.sealed:
            for i, acts in enumerate(job_acts()):
                if f"{i:06d}" not in run.committed:
                    lo = i * JOB_TOKENS
                    codes = {DICTIONARY: sparse(acts, lo)}
                    run.write_shard(f"{i:06d}", tok_lo=lo, tok_hi=lo + JOB_TOKENS, codes=codes)
            run.finish()
    seal(store, RUN)


def _codes(n: int) -> dict:
    rng = np.random.default_rng(0)
    tok = np.arange(n, dtype=np.uint32)
    return {"d": (rng.integers(0, 50, n, dtype=np.uint32), tok, rng.random(n, dtype=np.float32) + 1)}


def write_two_shards(path: Path) -> None:
    """1,000 codes, then 200,005 codes of two dictionaries and a few activations."""
    with open_run(Store(path, create=True)) as run:
        if "small" not in run.committed:
            run.write_shard("small", tok_lo=0, tok_hi=1000, codes=_codes(1000))
        feature, tok, act = _codes(200_000)["d"]
        dense = np.ones((10, 4), np.float32)
        run.write_shard(
            "large",
            tok_lo=1000,
            tok_hi=201_000,
            codes={"d": (feature[:5], tok[:5] + 1000, act[:5]), "e": (feature, tok + 1000, act)},
            activations={"hook": (np.arange(1000, 1010), dense)},
        )
        run.finish()


def seal_run(path: Path) -> None:
    """`seal`, by path, for other processes."""
    seal(Store(path), RUN)


def export_store(path: Path, out: Path) -> None:
    """`export`, by path, for other processes."""
    export(Store(path), out)


def servers() -> ForkServerContext:
    """Processes that start in milliseconds, with the store imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sparse_rep.store.store", "sparse_rep.store.sealing", "storekit"])
    return context


def _limited(connection: multiprocessing.connection.Connection, n_bytes: int, work: Callable, args: tuple) -> None:
    # Python ignores SIGXFSZ, so that a write beyond the limit is an error like that of a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
    try:
        work(*args)
        connection.send(None)
    except SparseRepError as error:
        connection.send((type(error).__name__, str(error)))


def with_small_disk(n_bytes: int, work: Callable, *args: Any) -> tuple[str, str] | None:
    """Run `work` in a process whose files cannot grow beyond n_bytes; the error it ended with, as (type, message)."""
    ours, theirs = multiprocessing.Pipe()
    process = servers().Process(target=_limited, args=(theirs, n_bytes, work, args))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()
