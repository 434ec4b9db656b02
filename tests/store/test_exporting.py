"""One portable file of a store, read by programs that know nothing of it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from storekit import DICTIONARY, RUN, Small, export_store, one_code, open_run, with_small_disk

from sparse_rep.store import StoreError, export
from sparse_rep.store.schema import tables


@pytest.fixture(scope="module")
def portable(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    path = export(small.store, tmp_path_factory.mktemp("export") / "one.duckdb")
    with duckdb.connect(str(path), read_only=True) as con:
        yield con


@pytest.mark.parametrize("table", sorted(tables()))
def test_every_table_is_in_the_exported_file_with_the_same_rows(
    small: Small, portable: duckdb.DuckDBPyConnection, table: str
) -> None:
    sql = f"SELECT * FROM {table} ORDER BY ALL"
    assert portable.sql(sql).fetchall() == small.store.connect().sql(sql).fetchall()


@pytest.mark.parametrize(
    "call",
    [
        f"top('{DICTIONARY}', 4, 7)",
        f"acts_of('{DICTIONARY}', 3)",
        f"at_token('{DICTIONARY}', 57)",
        "context('text', 57, 4, 4)",
        f"coact('{DICTIONARY}', 4, 5)",
    ],
)
def test_macros_work_in_the_exported_file(small: Small, portable: duckdb.DuckDBPyConnection, call: str) -> None:
    rows = portable.sql(f"FROM {call}").fetchall()
    assert rows == small.store.connect().sql(f"FROM {call}").fetchall()
    assert rows


def test_a_parquet_export_is_a_file_a_table(small: Small, tmp_path: Path) -> None:
    folder = export(small.store, tmp_path / "tables", format="parquet")
    assert {path.stem for path in folder.iterdir()} == set(tables())
    assert pq.read_table(folder / "acts.parquet").num_rows == (small.acts != 0).sum()
    assert pq.read_table(folder / "features.parquet").num_rows == 24


def test_some_runs_can_be_exported_alone(tmp_path: Path) -> None:
    store = Small.random(4).write(tmp_path / "store", sealed=True)
    with open_run(store, "other") as run:
        run.write_shard("a", tok_lo=0, tok_hi=10, codes={"other": one_code()})
    path = export(store, tmp_path / "one.duckdb", runs=["other-00000000"])
    with duckdb.connect(str(path), read_only=True) as con:
        assert con.sql("SELECT run_id FROM runs").fetchall() == [("other-00000000",)]
        assert con.sql("SELECT DISTINCT dictionary_id FROM acts").fetchall() == [("other",)]
    with pytest.raises(StoreError, match=f"there is no run 'nothing' in .*; it has other-00000000, {RUN}"):
        export(store, tmp_path / "two.duckdb", runs=["nothing"])


@pytest.mark.parametrize("format", ["duckdb", "parquet"])
def test_what_is_there_is_not_overwritten(small: Small, tmp_path: Path, format: str) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(StoreError, match="is there already"):
        export(small.store, tmp_path / "out", format=format)  # type: ignore[arg-type]
    assert (tmp_path / "out").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_file_appears_whole(small: Small, tmp_path: Path) -> None:
    """Whoever looks while it is being written sees nothing, or a database that opens and has every table."""
    out, exported, seen = tmp_path / "one.duckdb", threading.Event(), []

    def look() -> None:
        last = False
        while not last:
            last = exported.wait(0.002)
            if out.exists():
                with duckdb.connect(str(out), read_only=True) as con:
                    seen.append(len(con.sql("SHOW TABLES").fetchall()))

    watcher = threading.Thread(target=look)
    watcher.start()
    export(small.store, out)
    exported.set()
    watcher.join()
    assert set(seen) == {len(tables()) + 1}
    assert [path.name for path in tmp_path.iterdir()] == ["one.duckdb"]


def test_an_export_that_does_not_fit_leaves_nothing(small: Small, tmp_path: Path) -> None:
    kind, message = with_small_disk(100_000, export_store, small.path, tmp_path / "x") or ("", "")
    assert kind == "StoreFull"
    assert str(tmp_path / "x") in message
    assert [path.name for path in tmp_path.iterdir()] == []
