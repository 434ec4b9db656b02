"""kill -9 at a random moment of train, extract or seal; the same commands again end with the same codes."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from killable import whole_path

from sparse_rep.config import ExtractConfig, TrainConfig
from sparse_rep.store import Store

PRELOAD = [
    "sparse_rep.jobs.training",
    "sparse_rep.jobs.extract",
    "sparse_rep.store",
    "transformers.models.llama.modeling_llama",
]


def start(train: TrainConfig, extract: ExtractConfig) -> multiprocessing.Process:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=whole_path, args=(train.model_dump_json(), extract.model_dump_json()))
    process.start()
    return process  # pyright: ignore


def finish(train: TrainConfig, extract: ExtractConfig) -> float:
    started = time.monotonic()
    process = start(train, extract)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - started


def fingerprint(path: Path) -> tuple[str, list]:
    store = Store(path)
    run_id = store.query("SELECT run_id FROM runs WHERE kind = 'extract'")["run_id"].to_pylist()[0]
    codes = store.query("SELECT dictionary_id, feature, tok, act FROM acts ORDER BY ALL").to_pylist()
    pages = store.query("SELECT feature, n_active, max_act FROM features ORDER BY ALL").to_pylist()
    assert len(pages) == 64
    return store.manifest(run_id).content_hash, codes


@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_a_demo_killed_at_random_moments_ends_with_the_same_codes(
    train_config: Callable[..., TrainConfig], extract_config: Callable[..., ExtractConfig], tmp_path: Path, kills: int
) -> None:
    def configs(store: Path) -> tuple[TrainConfig, ExtractConfig]:
        return (
            train_config(store=store, checkpoint_seconds=0.2),
            extract_config("decided-by-training", store=store, shard_tokens=100),
        )

    undisturbed = configs(tmp_path / "undisturbed")
    seconds = finish(*undisturbed)
    expected = fingerprint(tmp_path / "undisturbed")
    rng = random.Random(os.environ.get("SPARSE_REP_CHAOS_SEED", "0"))
    hurt, round_ = 0, 0
    while hurt < kills:
        # A few kills to a store: the first early in training, later ones wherever the resumed job has come to.
        disturbed = configs(tmp_path / f"disturbed-{round_}")
        round_ += 1
        for _ in range(3):
            process = start(*disturbed)
            process.join(timeout=rng.uniform(0.1, 1.0) * seconds)
            if process.exitcode is not None:
                break
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            hurt += 1
        finish(*disturbed)
        assert fingerprint(disturbed[0].store) == expected
