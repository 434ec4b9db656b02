"""Codes come back as they were given: rounded, whole, sorted, whatever the order in which they were written."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storekit import RUN, Small, one_code, open_run

from sparse_rep.errors import DataError
from sparse_rep.store import Store, StoreError, seal, verify
from sparse_rep.store.rows import order_of, round_to_bf16

SHARD_TOKENS = 50
finite = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**126), max_value=2.0**126)
codes_of_a_shard = st.dictionaries(st.tuples(st.integers(0, 40), st.integers(0, SHARD_TOKENS - 1)), finite, max_size=30)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """torch's rounding to nearest, ties to even."""
    return torch.from_numpy(np.ascontiguousarray(x, np.float32)).bfloat16().float().numpy()


def everything(store: Store, view: str, run: str) -> set[tuple]:
    table = store.query(f"SELECT dictionary_id, feature, tok, act FROM {view} WHERE run_id = $run", run=run)
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert len(rows) == len(set(rows))
    return set(rows)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shards=st.lists(st.dictionaries(st.sampled_from(["d", "e"]), codes_of_a_shard), min_size=1, max_size=4),
    data=st.data(),
)
def test_codes_come_back_rounded_live_and_sealed_in_any_order_of_shards(
    tmp_path_factory: pytest.TempPathFactory, shards: list[dict], data: st.DataObject
) -> None:
    store = Store(tmp_path_factory.mktemp("codes") / "store", create=True)
    expected = set()
    for lo, shard in enumerate(shards):
        for dictionary, codes in shard.items():
            for ((feature, tok), _), act in zip(codes.items(), to_bf16(np.array(list(codes.values()))), strict=True):
                if act != 0:
                    expected.add((dictionary, feature, tok + lo * SHARD_TOKENS, float(act)))
    hashes = set()
    for name in ("first", "second"):
        with open_run(store, name) as run:
            for i in data.draw(st.permutations(range(len(shards)))):
                codes = {}
                for dictionary, given_codes in shards[i].items():
                    items = data.draw(st.permutations(list(given_codes.items())))
                    feature, tok = (np.array([key[c] for key, _ in items], np.uint32) for c in (0, 1))
                    codes[dictionary] = (feature, tok + i * SHARD_TOKENS, np.array([act for _, act in items]))
                lo = i * SHARD_TOKENS
                run.write_shard(f"{i:06d}", tok_lo=lo, tok_hi=lo + SHARD_TOKENS, codes=codes)
            run.finish()
        run_id = run.run_id
        assert everything(store, "acts", run_id) == expected
        hashes.add(store.manifest(run_id).content_hash)
        seal(store, run_id)
        assert everything(store, "acts", run_id) == expected
        assert everything(store, "acts_by_token", run_id) == expected
        hashes.add(store.manifest(run_id).content_hash)
    assert len(hashes) == 1
    assert verify(store) == []


@given(st.lists(finite, min_size=1))
def test_rounding_is_torchs(values: list[float]) -> None:
    x = np.array(values, np.float32)
    np.testing.assert_array_equal(round_to_bf16(x), to_bf16(x))


def test_a_tie_rounds_to_the_even_neighbour() -> None:
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32)
    np.testing.assert_array_equal(round_to_bf16(ties), np.array([1, 1 + 2**-6], np.float32))


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))))
def test_the_sort_by_digits_is_lexsort(pairs: list[tuple[int, int]]) -> None:
    major, minor = (np.array([p[c] for p in pairs], np.uint32) for c in (0, 1))
    np.testing.assert_array_equal(order_of(major, minor), np.lexsort((minor, major)))


@pytest.mark.parametrize(
    ("codes", "complaint"),
    [
        (([1, 1], [5, 5], [1.0, 2.0]), "two activations on token 5"),
        (([1], [5], [float("nan")]), "NaN"),
        (([-1], [5], [1.0]), "empty slots"),
        (([1], [10], [1.0]), "outside its range"),
        (([1, 2], [5], [1.0]), "differ in length"),
    ],
    ids=["duplicate", "nan", "negative", "outside", "ragged"],
)
def test_codes_that_cannot_be_right_are_refused_and_leave_nothing(tmp_path: Path, codes: tuple, complaint: str) -> None:
    store = Store(tmp_path / "store", create=True)
    with open_run(store) as run:
        feature, tok, act = (np.array(column) for column in codes)
        with pytest.raises(DataError, match=complaint):
            run.write_shard("000000", tok_lo=0, tok_hi=10, codes={"d": (feature, tok, act)})
        assert run.committed == frozenset()
        assert not list(run.path.rglob("*.parquet"))


def test_shards_that_overlap_are_refused(tmp_path: Path) -> None:
    with open_run(Store(tmp_path / "store", create=True)) as run:
        run.write_shard("a", tok_lo=0, tok_hi=10, codes={"d": one_code()})
        with pytest.raises(DataError, match="must not overlap"):
            run.write_shard("b", tok_lo=9, tok_hi=20, codes={"d": one_code(tok=9)})


def test_a_second_writer_is_refused_and_told_who_holds_the_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    with open_run(store):
        with pytest.raises(StoreError, match=f"process {os.getpid()} on {socket.gethostname()}"):
            open_run(store)
        with pytest.raises(StoreError, match=f"process {os.getpid()}"):
            seal(store, RUN)
    open_run(store).close()


@pytest.mark.parametrize("host", [socket.gethostname(), "elsewhere"])
def test_the_lease_of_a_dead_writer_is_taken_over(tmp_path: Path, host: str) -> None:
    """On this host the process is gone; on another the heart has not beaten for over a minute."""
    store = Store(tmp_path / "store", create=True)
    open_run(store).close()
    lease = store.run_path(RUN) / "writer.lease"
    lease.write_text(f'{{"pid": {2**22 + 1}, "host": "{host}", "token": "x"}}')  # beyond Linux's largest pid
    if host == "elsewhere":
        with pytest.raises(StoreError, match="on elsewhere"):
            open_run(store)
        os.utime(lease, (1, 1))
    open_run(store).close()
    assert not lease.exists()


def test_a_sealed_run_is_not_written_again(small: Small) -> None:
    with open_run(small.store) as run:
        assert run.sealed
        with pytest.raises(StoreError, match="is sealed"):
            run.write_shard("x", tok_lo=0, tok_hi=1)


def test_sealing_again_changes_nothing(tmp_path: Path) -> None:
    store = Small.random(1).write(tmp_path / "store", sealed=True)
    before = store.manifest(RUN)
    assert seal(store, RUN) == before.generation
    assert store.manifest(RUN) == before


def test_an_unfinished_run_is_not_sealed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    with open_run(store, n_shards_planned=3) as run:
        run.write_shard("a", tok_lo=0, tok_hi=10, codes={"d": one_code()})
    with pytest.raises(StoreError, match="1 of 3 shards"):
        seal(store, RUN)


def test_codes_beyond_the_dictionary_are_not_sealed_and_the_run_stays_readable(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    store.dictionary_path("d").mkdir()
    (store.dictionary_path("d") / "cfg.json").write_text('{"d_sae": 4}')
    with open_run(store) as run:
        run.write_shard("a", tok_lo=0, tok_hi=10, codes={"d": one_code(feature=4)})
        run.finish()
    with pytest.raises(StoreError, match="beyond the 4 latents"):
        seal(store, RUN)
    assert store.query("SELECT feature FROM acts").column(0).to_pylist() == [4]
