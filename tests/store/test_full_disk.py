"""A disk that fills up. The limit on a file's size stands in for it: the kernel refuses the write in the same way."""

from pathlib import Path

from storekit import RUN, seal_run, with_small_disk, write_two_shards

from sparse_rep.store import Store, verify

LIMIT = 40_000


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
    for limit in (LIMIT, 800_000, 1_300_000):  # a bucket of codes, the copy by token and the index do not fit
        kind, message = with_small_disk(limit, seal_run, path) or ("", "")
        assert (kind, message[:17]) == ("StoreFull", "no room left for ")
        assert Store(path).manifest(RUN).status == "complete"
        assert {p for p in path.rglob("*") if p.is_file()} == before
    seal_run(path)
    assert Store(path).query("SELECT count(*) FROM acts").column(0).to_pylist() == [201_005]
    assert verify(Store(path)) == []
