"""A disk that fills up. The limit on a file's size stands in for it: the kernel refuses the write in the same way."""

from pathlib import Path

import numpy as np
from storekit import RUN, open_run, with_small_disk

from sparse_rep.store import Store, seal, verify

LIMIT = 40_000


def codes(n: int) -> dict:
    rng = np.random.default_rng(0)
    tok = np.arange(n, dtype=np.uint32)
    return {"d": (rng.integers(0, 50, n, dtype=np.uint32), tok, rng.random(n, dtype=np.float32) + 1)}


def write_two_shards(path: Path) -> None:
    with open_run(Store(path, create=True)) as run:
        if "small" not in run.committed:
            run.write_shard("small", tok_lo=0, tok_hi=1000, codes=codes(1000))
        feature, tok, act = codes(200_000)["d"]
        dense = np.ones((10, 4), np.float32)
        run.write_shard(
            "large",
            tok_lo=1000,
            tok_hi=201_000,
            codes={"d": (feature[:5], tok[:5] + 1000, act[:5]), "e": (feature, tok + 1000, act)},
            activations={"hook": (np.arange(1000, 1010), dense)},
        )
        run.finish()


def seal_it(path: Path) -> None:
    seal(Store(path), RUN)


def unfinished(path: Path) -> list[str]:
    return [p.name for p in path.rglob("*") if p.name.endswith((".tmp", ".wal", ".lease"))]


def test_a_full_disk_keeps_whole_shards_only_says_so_and_the_job_goes_on_later(tmp_path: Path) -> None:
    path = tmp_path / "store"
    kind, message = with_small_disk(LIMIT, write_two_shards, path) or ("", "")
    assert kind == "StoreFull"
    assert message.startswith("no room left for ")
    assert "free some space and run the same command again" in message
    store = Store(path)
    assert [shard.name for shard in store.manifest(RUN).shards] == ["small"]
    assert store.query("SELECT count(*) FROM acts").column(0).to_pylist() == [1000]
    assert [p.name for p in path.rglob("*.parquet")] == ["small.parquet"]
    assert unfinished(path) == []
    write_two_shards(path)
    assert store.query("SELECT count(*) FROM acts").column(0).to_pylist() == [201_005]
    assert verify(store) == []


def test_a_disk_that_fills_up_while_sealing_leaves_the_run_complete(tmp_path: Path) -> None:
    path = tmp_path / "store"
    write_two_shards(path)
    before = {p for p in path.rglob("*") if p.is_file()}
    for limit in (LIMIT, 2_000_000):  # in a bucket of codes; in the index
        kind, message = with_small_disk(limit, seal_it, path) or ("", "")
        assert (kind, message[:17]) == ("StoreFull", "no room left for ")
        assert Store(path).manifest(RUN).status == "complete"
        assert {p for p in path.rglob("*") if p.is_file()} == before
    seal_it(path)
    assert Store(path).query("SELECT count(*) FROM acts").column(0).to_pylist() == [201_005]
    assert verify(Store(path)) == []
