"""What a code costs on disk, and how the files that make it cheap are laid out. pyarrow's metadata is the witness."""

import re
from itertools import pairwise

import pyarrow.parquet as pq
import pytest
from storekit import DICTIONARY, RUN, open_run

from sparse_rep.store import Store, seal
from sparse_rep.synthetic import SyntheticCodes

ROWS = 10_000_000
BYTES_A_CODE = 2.7
SHARDS = 8


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Ten million codes with the statistics of real ones."""
    synthetic = SyntheticCodes()
    store = Store(tmp_path_factory.mktemp("size") / "store", create=True)
    docs = synthetic.n_docs(ROWS)
    edges = [docs * i // SHARDS for i in range(SHARDS + 1)]
    with open_run(store) as run:
        for i, (lo, hi) in enumerate(pairwise(edges)):
            tok_lo, tok_hi = lo * synthetic.doc_tokens, hi * synthetic.doc_tokens
            run.write_shard(f"{i:06d}", tok_lo=tok_lo, tok_hi=tok_hi, codes={DICTIONARY: synthetic.codes(lo, hi)})
        run.finish()
    seal(store, RUN, coact_tokens=4096)
    return store


def test_a_code_costs_at_most_2_7_bytes(sealed: Store) -> None:
    manifest = sealed.manifest(RUN)
    assert manifest.n_rows > 0.9 * ROWS
    assert sum(file.bytes for file in manifest.code_files()) / manifest.n_rows <= BYTES_A_CODE


def files(store: Store, kind: str) -> list[pq.FileMetaData]:
    codes = store.manifest(RUN).sealed
    assert codes is not None
    entries = codes.codes[DICTIONARY]
    listed = entries.by_token if kind == "by_token" else [entries.files[b] for b in sorted(entries.files)]
    return [pq.read_metadata(store.run_path(RUN) / file.path) for file in listed]


def column(group: pq.RowGroupMetaData, name: str) -> pq.ColumnChunkMetaData:
    return next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == name)


@pytest.mark.parametrize(("kind", "major"), [("codes", "feature"), ("by_token", "tok")])
def test_row_groups_follow_each_other_in_both_orders(sealed: Store, kind: str, major: str) -> None:
    """So a reader who wants one feature (or token) opens one or two row groups: ranges touch at most at their ends."""
    groups = [meta.row_group(g) for meta in files(sealed, kind) for g in range(meta.num_row_groups)]
    assert len(groups) > 20
    for before, after in pairwise(groups):
        last, first = column(before, major).statistics.max, column(after, major).statistics.min
        assert last <= first
    assert sum(group.num_rows for group in groups) == sealed.manifest(RUN).n_rows
    assert max(group.num_rows for group in groups) <= 262_144


def test_buckets_share_no_feature(sealed: Store) -> None:
    codes = sealed.manifest(RUN).sealed
    assert codes is not None
    size = codes.codes[DICTIONARY].bucket_size
    for bucket, meta in zip(sorted(codes.codes[DICTIONARY].files), files(sealed, "codes"), strict=True):
        ranges = [column(meta.row_group(g), "feature").statistics for g in range(meta.num_row_groups)]
        assert bucket * size <= min(r.min for r in ranges)
        assert max(r.max for r in ranges) < (bucket + 1) * size


@pytest.mark.parametrize(("kind", "major", "minor"), [("codes", "feature", "tok"), ("by_token", "tok", "feature")])
def test_columns_are_encoded_as_intended(sealed: Store, kind: str, major: str, minor: str) -> None:
    for meta in files(sealed, kind):
        group = meta.row_group(0)
        assert "RLE_DICTIONARY" in column(group, major).encodings
        assert "BYTE_STREAM_SPLIT" in column(group, "act").encodings
        assert "DELTA_BINARY_PACKED" in column(group, minor).encodings
        assert {column(group, name).compression for name in ("feature", "tok", "act")} == {"ZSTD"}


def test_a_feature_is_looked_for_in_one_bucket(sealed: Store) -> None:
    codes = sealed.manifest(RUN).sealed
    assert codes is not None
    assert len(codes.codes[DICTIONARY].files) > 3
    plan = sealed.connect().sql(f"EXPLAIN ANALYZE FROM top('{DICTIONARY}', 7, 5)").fetchall()[0][1]
    assert set(re.findall(r"Total Files Read: (\d+)", plan)) == {"1"}
