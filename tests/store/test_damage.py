"""Stores that are not as they were written: the damage is named, and everything else still answers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from storekit import RUN, Small, one_code, open_run

from sparse_rep.store import Store, StoreError, verify


def shard(store: Store) -> Path:
    return next(store.run_path(RUN).glob("live/*/000001.parquet"))


def index(store: Store) -> Path:
    return store.run_path(RUN) / "index.g1.duckdb"


def truncate(store: Store) -> None:
    shard(store).write_bytes(shard(store).read_bytes()[:-10])


def remove(store: Store) -> None:
    shard(store).unlink()


def garble_manifest(store: Store) -> None:
    (store.run_path(RUN) / "manifest.json").write_text('{"schema_version": 1, "run_id')


def empty_manifest(store: Store) -> None:
    (store.run_path(RUN) / "manifest.json").write_text("{}")


def remove_manifest(store: Store) -> None:
    (store.run_path(RUN) / "manifest.json").unlink()


def age_manifest(store: Store) -> None:
    path = store.run_path(RUN) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))


def garble_index(store: Store) -> None:
    index(store).write_bytes(b"x" * index(store).stat().st_size)


def cut_index(store: Store) -> None:
    index(store).write_bytes(index(store).read_bytes()[:5000])


@pytest.mark.parametrize(
    ("damage", "reason", "sealed"),
    [
        (truncate, "the manifest says", False),
        (remove, "000001.parquet is missing", False),
        (garble_manifest, "manifest.json cannot be read", False),
        (empty_manifest, "is not a manifest: run_id", False),
        (remove_manifest, "manifest.json is missing", False),
        (age_manifest, "schema version 99, this program knows 1: upgrade", False),
        (garble_index, "index.g1.duckdb", True),
        (cut_index, "index.g1.duckdb holds 5,000 bytes", True),
    ],
)
def test_a_damaged_run_is_named_and_the_others_answer(
    tmp_path: Path, damage: Callable[[Store], None], reason: str, sealed: bool
) -> None:
    store = Small.random(2).write(tmp_path / "store", sealed=sealed)
    with open_run(store, "other") as run:
        run.write_shard("a", tok_lo=0, tok_hi=10, codes={"other": one_code()})
    damage(store)
    runs = {row["run_id"]: row for row in store.query("SELECT run_id, status, note FROM runs").to_pylist()}
    assert runs[RUN]["status"] == "damaged"
    assert reason in runs[RUN]["note"]
    assert "\n" not in runs[RUN]["note"]
    assert runs["other-00000000"]["status"] == "live"
    assert store.query("SELECT DISTINCT run_id FROM acts").column(0).to_pylist() == ["other-00000000"]
    assert reason in " ".join(problem.what for problem in verify(store))
    assert {problem.where for problem in verify(store)} == {f"run {RUN}"}


def test_a_flipped_bit_is_found_by_verify(tmp_path: Path) -> None:
    store = Small.random(2).write(tmp_path / "store", sealed=False)
    data = bytearray(shard(store).read_bytes())
    data[len(data) // 2] ^= 1
    shard(store).write_bytes(data)
    (problem,) = verify(store, RUN)
    assert problem.where == f"run {RUN}"
    assert problem.what == "live/dictionary=d/000001.parquet has other bytes than were written (sha256 differs)"


def test_an_edited_manifest_is_found_by_verify(tmp_path: Path) -> None:
    store = Small.random(2).write(tmp_path / "store", sealed=False)
    path = store.run_path(RUN) / "manifest.json"
    path.write_text(path.read_text().replace('"content_hash":"', '"content_hash":"0'))
    assert ["content hash" in problem.what for problem in verify(store)] == [True]


def test_a_damaged_corpus_and_a_damaged_dictionary_are_found_by_verify(tmp_path: Path) -> None:
    store = Small.random(2).write(tmp_path / "store", sealed=False)
    tokens = store.path / "corpora" / "text" / "tokens.parquet"
    tokens.write_bytes(tokens.read_bytes()[:-1])
    (store.dictionary_path("d") / "cfg.json").write_text("{")
    assert {problem.where for problem in verify(store)} == {"corpus text", "dictionary d"}
    assert store.query("SELECT count(*) FROM acts").column(0).to_pylist() != [0]


def test_a_job_makes_a_shard_that_lost_its_file_again(tmp_path: Path) -> None:
    store = Small.random(2).write(tmp_path / "store", sealed=False)
    shard(store).unlink()
    with open_run(store) as run:
        assert run.committed == {"000000", "000002"}
        assert run.status == "live"
    assert verify(store) == []


def test_a_file_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    for create in (False, True):
        with pytest.raises(StoreError, match="is a file: a store is a directory"):
            Store(tmp_path / "store", create=create)


def test_a_missing_store_is_said_to_be_missing_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a store: make one with"):
        Store(tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_store_is_not_made_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match="a directory of its own"):
        Store(tmp_path, create=True)


@pytest.mark.parametrize(
    ("text", "complaint"), [('{"schema_version": 2}', "upgrade"), ("{}", "cannot be read"), ("[]", "cannot be read")]
)
def test_a_store_of_another_version_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    Store(tmp_path / "store", create=True)
    (tmp_path / "store" / "store.json").write_text(text)
    with pytest.raises(StoreError, match=complaint):
        Store(tmp_path / "store")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 201])
def test_a_run_cannot_lie_outside_the_store(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "store", create=True)
    with pytest.raises(StoreError):
        store.manifest(name)
    with pytest.raises(StoreError):
        store.dictionary_path(name)


def test_a_run_that_is_gone_leaves_the_rest(tmp_path: Path) -> None:
    store = Small.random(2).write(tmp_path / "store", sealed=True)
    assert store.query("SELECT count(*) FROM features").column(0).to_pylist() == [24]
    shutil.rmtree(store.run_path(RUN))
    assert store.query("SELECT count(*) FROM features").column(0).to_pylist() == [0]
