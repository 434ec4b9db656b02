"""Writers and sealers that are killed at random moments, with a reader beside them."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from storekit import DICTIONARY, JOB_SHARDS, JOB_TOKENS, RUN, job, job_acts, servers

from sparse_rep.store import Store, verify

WHOLE = [(i, int((acts != 0).sum()), float(acts.sum())) for i, acts in enumerate(job_acts())]
"""Shard, codes, sum of activations."""
SHARDS = f"SELECT tok // {JOB_TOKENS} AS shard, count(*) AS n, sum(act) AS total FROM acts GROUP BY 1 ORDER BY 1"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, float]:
    """The job's store when nobody kills it, and how long the job took in a process that had been warmed up."""
    for name in ("warm", "timed"):
        path = tmp_path_factory.mktemp(name) / "store"
        started = time.perf_counter()
        process = servers().Process(target=job, args=(path,))
        process.start()
        process.join()
        assert process.exitcode == 0
    return Store(path), time.perf_counter() - started


def look(path: Path) -> int:
    """Read as a reader would at any moment; every shard that shows must be whole. Returns how many do."""
    if not (path / "store.json").exists():
        return 0
    rows = [tuple(row.values()) for row in Store(path).query(SHARDS).to_pylist()]
    assert rows == WHOLE[: len(rows)]
    (status,) = Store(path).query("SELECT coalesce(any_value(status), 'none') AS s FROM runs").column(0).to_pylist()
    assert status != "failed"
    return len(rows)


def rounds(path: Path, seconds: float, kills: int, seed: int) -> tuple[int, set[int]]:
    """Start the job and kill it, `kills` times, reading all the while, then let it finish. Returns how often the kill came
    before the job's end, and the numbers of shards seen."""
    rng = np.random.default_rng(seed)
    interrupted, seen = 0, set()
    for _ in range(kills):
        deadline = time.perf_counter() + rng.uniform(0, seconds)
        process = servers().Process(target=job, args=(path,))
        process.start()
        while time.perf_counter() < deadline and process.is_alive():
            seen.add(look(path))
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        interrupted += process.exitcode != 0
        shown = look(path)
        seen.add(shown)
    process = servers().Process(target=job, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    return interrupted, seen


def assert_same(path: Path, undisturbed: Store) -> None:
    store = Store(path)
    assert store.manifest(RUN).status == "sealed"
    assert store.manifest(RUN).content_hash == undisturbed.manifest(RUN).content_hash
    for view in ("acts", "acts_by_token", "features", "feature_top", "feature_coact"):
        sql = f"SELECT * FROM {view} WHERE dictionary_id = $d ORDER BY ALL"
        assert store.query(sql, d=DICTIONARY).equals(undisturbed.query(sql, d=DICTIONARY))
    assert verify(store) == []
    left = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
    assert not [p for p in left if p.endswith((".tmp", ".lease", ".wal")) or "/live/" in p]


def test_a_job_killed_at_random_moments_ends_as_if_undisturbed(
    tmp_path: Path, undisturbed: tuple[Store, float]
) -> None:
    store, seconds = undisturbed
    interrupted = 0
    for seed in range(4):
        interrupted += rounds(tmp_path / f"store-{seed}", seconds, kills=2, seed=seed)[0]
        assert_same(tmp_path / f"store-{seed}", store)
    assert interrupted > 0


@pytest.mark.slow
def test_forty_stores_killed_at_random_moments_end_as_if_undisturbed(
    tmp_path: Path, undisturbed: tuple[Store, float]
) -> None:
    store, seconds = undisturbed
    interrupted, seen = 0, set()
    for seed in range(100, 140):
        killed, shown = rounds(tmp_path / f"store-{seed}", 1.5 * seconds, kills=3, seed=seed)
        assert_same(tmp_path / f"store-{seed}", store)
        interrupted += killed
        seen |= shown
    assert interrupted >= 40
    assert {0, JOB_SHARDS} < seen  # partial runs were met as well as none and all


@pytest.mark.parametrize("step", ["remove_unlisted", "sync_file", "write_by_token"])
def test_an_error_at_any_step_of_sealing_leaves_the_run_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, undisturbed: tuple[Store, float]
) -> None:
    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    path = tmp_path / "store"
    with monkeypatch.context() as patch:
        patch.setattr(f"sparse_rep.store.sealing.{step}", stop)
        with pytest.raises(Stop):
            job(path)
    assert Store(path).manifest(RUN).status == "complete"
    assert look(path) == JOB_SHARDS
    job(path)
    assert_same(path, undisturbed[0])
