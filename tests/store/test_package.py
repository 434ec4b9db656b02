"""The store as a package: what importing it costs, and the queries it finds."""

import subprocess
import sys
from pathlib import Path

import pytest
from storekit import Small

from sparse_rep.store import queries as queries_module
from sparse_rep.store.queries import queries
from sparse_rep.store.schema import ARROW, tables


def test_the_store_works_without_torch(tmp_path: Path) -> None:
    Small.random(6).write(tmp_path / "store", sealed=True)
    code = (
        "import sys; from sparse_rep.store import Store, run_sql; store = Store(sys.argv[1]);"
        "store.query('FROM features'); run_sql(store, 'SELECT 1');"
        "print(sorted({'torch', 'transformers', 'streamlit', 'pandas'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-P", "-c", code, tmp_path / "store"], capture_output=True, text=True, check=True
    )
    assert out.stdout == "[]\n"


def test_every_name_that_the_package_offers_is_there() -> None:
    import sparse_rep.store as package

    for name in package.__all__:
        assert callable(getattr(package, name))
    with pytest.raises(AttributeError):
        package.nothing  # noqa: B018


def test_a_query_is_found_by_its_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "mine.sql").write_text(
        "-- name: mine.one\n-- What is\n-- one?\nSELECT 1;\n\n-- name: mine.two\nSELECT $x;\n"
    )
    monkeypatch.setattr(queries_module.resources, "files", lambda _: tmp_path)
    queries.cache_clear()
    try:
        assert {name: (q.note, q.sql) for name, q in queries().items()} == {
            "mine.one": ("What is one?", "SELECT 1"),
            "mine.two": ("", "SELECT $x"),
        }
    finally:
        queries.cache_clear()


def test_a_named_query_runs_with_its_parameters(small: Small) -> None:
    rows = small.store.query("app_read.text", corpus="text", lo=3, hi=7).to_pylist()
    assert [row["token_id"] for row in rows] == small.token_ids[3:7].tolist()


@pytest.mark.parametrize("table", sorted(tables()))
def test_every_table_of_the_schema_is_a_view_with_its_types(small: Small, tmp_path: Path, table: str) -> None:
    """Also in a store without any data."""
    from sparse_rep.store import Store

    for store in (small.store, Store(tmp_path / "empty", create=True)):
        described = store.connect().sql(f"DESCRIBE {table}").fetchall()
        assert [(name, kind) for name, kind, *_ in described] == [(c.name, c.type) for c in tables()[table].columns]
    assert {c.type for c in tables()[table].columns} <= set(ARROW)
