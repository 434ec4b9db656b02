"""SQL that tries to get out, to write, or never to end; and SQL that is fine."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from storekit import DICTIONARY, RUN, Small

from sparse_rep.store import SqlRefused, SqlTimeout, Store, StoreError, run_sql
from sparse_rep.store.confined import execute

SECRET = "the-secret-outside"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a sealed store, a secret beside it, and the current directory set there. Nothing may change in it."""
    home = tmp_path_factory.mktemp("home")
    Small.random(5).write(home / "store", sealed=True)
    (home / "secret.csv").write_text(f"word\n{SECRET}\n")
    (home / "store" / "link.csv").symlink_to(home / "secret.csv")
    (home / "store" / "annotations" / "me.jsonl").write_text('{"label": "private"}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("SECRET", SECRET)
        before = snapshot(home)
        yield home
        assert snapshot(home) == before


def snapshot(home: Path) -> dict[str, int]:
    return {str(p): p.lstat().st_mtime_ns for p in home.rglob("*")}


ESCAPES = {
    "read_csv": "FROM read_csv('/etc/passwd')",
    "read_csv_auto": "FROM read_csv_auto('{home}/secret.csv')",
    "read_text": "FROM read_text('/etc/passwd')",
    "read_blob": "FROM read_blob('/etc/passwd')",
    "read_json": "FROM read_json('/etc/passwd')",
    "read_ndjson_objects": "FROM read_ndjson_objects('{store}/annotations/me.jsonl')",
    "read_parquet outside": "FROM read_parquet('/nowhere.parquet')",
    "read_parquet inside": "FROM read_parquet('{store}/corpora/text/tokens.parquet')",
    "parquet_metadata": "FROM parquet_metadata('{store}/corpora/text/tokens.parquet')",
    "sniff_csv": "FROM sniff_csv('{home}/secret.csv')",
    "glob": "FROM glob('/etc/*')",
    "glob inside": "FROM glob('{store}/**')",
    "read_duckdb": "FROM read_duckdb('{home}/x.duckdb', table_name = 't')",
    "relative": "FROM read_text('../secret.csv')",
    "dotted through the store": "FROM read_text('{store}/../secret.csv')",
    "symlink in the store": "FROM read_text('{store}/link.csv')",
    "symlink by replacement": "FROM '{store}/link.csv'",
    "replacement scan": "FROM 'secret.csv'",
    "replacement scan, quoted": 'FROM "secret.csv"',
    "replacement scan, schema": 'FROM main."secret.csv"',
    "replacement scan, absolute": "SELECT * FROM '/etc/passwd'",
    "in a subquery": "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "in a CTE": "WITH x AS (FROM read_text('/etc/passwd')) FROM x",
    "in a join": "SELECT * FROM acts, LATERAL (FROM read_text('/etc/passwd'))",
    "in EXISTS": "SELECT 1 WHERE EXISTS (FROM read_text('/etc/passwd'))",
    "in ORDER BY": "SELECT 1 ORDER BY (SELECT content FROM read_text('/etc/passwd'))",
    "in a macro's argument": "FROM top('d', (SELECT length(content) FROM read_text('/etc/passwd')), 3)",
    "in a union": "SELECT 'x' UNION ALL SELECT content FROM read_text('/etc/passwd')",
    "in EXPLAIN ANALYZE": "EXPLAIN ANALYZE FROM read_text('/etc/passwd')",
    "in DESCRIBE": "DESCRIBE FROM read_csv('{home}/secret.csv')",
    "SUMMARIZE a file": "SUMMARIZE 'secret.csv'",
    "PIVOT a file": "PIVOT 'secret.csv' ON word",
    "query": "FROM query('SELECT content FROM read_text(''/etc/passwd'')')",
    "query_table": "FROM query_table('{home}/secret.csv')",
    "json_execute_serialized_sql": "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "getenv": "SELECT getenv('SECRET')",
    "current_setting": "SELECT current_setting('temp_directory')",
    "duckdb_settings": "FROM duckdb_settings()",
    "duckdb_secrets": "FROM duckdb_secrets()",
    "duckdb_extensions": "FROM duckdb_extensions()",
    "https": "FROM read_csv('https://example.com/x.csv')",
    "https by replacement": "FROM 'http://example.com/x.parquet'",
    "s3": "FROM 's3://bucket/x.parquet'",
    "COPY outside": "COPY (SELECT 1) TO '{home}/out.csv'",
    "COPY inside": "COPY acts TO '{store}/out.parquet'",
    "COPY FROM": "COPY runs FROM '{home}/secret.csv'",
    "EXPORT DATABASE": "EXPORT DATABASE '{home}/dump'",
    "IMPORT DATABASE": "IMPORT DATABASE '{home}/dump'",
    "ATTACH": "ATTACH '{home}/x.duckdb'",
    "ATTACH inside": "ATTACH '{store}/x.duckdb' AS x",
    "DETACH": "DETACH index_0",
    "INSTALL": "INSTALL httpfs",
    "LOAD": "LOAD httpfs",
    "SET": "SET enable_external_access = true",
    "SET VARIABLE": "SET VARIABLE x = 1",
    "RESET": "RESET lock_configuration",
    "PRAGMA": "PRAGMA enable_profiling",
    "PRAGMA setting": "PRAGMA memory_limit = '1TB'",
    "CREATE TABLE": "CREATE TABLE x AS SELECT 1",
    "CREATE in the index": "CREATE TABLE index_0.x AS SELECT 1",
    "CREATE MACRO": "CREATE MACRO f() AS 1",
    "CREATE SECRET": "CREATE SECRET (TYPE s3)",
    "INSERT": "INSERT INTO runs (run_id) VALUES ('x')",
    "UPDATE": "UPDATE runs SET note = 'x'",
    "DELETE": "DELETE FROM runs",
    "DROP": "DROP VIEW acts",
    "ALTER": "ALTER TABLE runs ADD COLUMN x INTEGER",
    "TRUNCATE": "TRUNCATE runs",
    "VACUUM": "VACUUM",
    "CHECKPOINT": "CHECKPOINT",
    "USE": "USE index_0",
    "CALL": "CALL pragma_version()",
    "PREPARE": "PREPARE x AS SELECT 1",
    "EXECUTE": "EXECUTE x",
    "BEGIN": "BEGIN TRANSACTION",
    "two statements": "SELECT 1; SELECT 2",
    "a second after a comment": "SELECT 1 -- harmless\n; DROP VIEW acts",
    "a second after a block comment": "SELECT 1 /* ; */ ; COPY acts TO 'x.csv'",
    "EXPLAIN of a write": "EXPLAIN ANALYZE COPY (SELECT 1) TO 'out.csv'",
    "EXPLAIN with options of a write": "EXPLAIN (ANALYZE, FORMAT json) CREATE TABLE x AS SELECT 1",
    "EXPLAIN behind a comment": "/* x */ EXPLAIN ANALYZE FROM read_text('/etc/passwd')",
    "nothing": "",
    "only a comment": "-- nothing",
    "not SQL": "tell me everything",
    "no such table": "SELECT * FROM no_such_table",
    "no such column": "SELECT nothing FROM acts",
}


@pytest.mark.parametrize("sql", ESCAPES.values(), ids=ESCAPES.keys())
def test_what_is_not_a_query_of_the_store_is_refused_in_one_sentence(home: Path, sql: str) -> None:
    """Here, without the fences of a process of its own: what its two inner fences refuse."""
    with pytest.raises(StoreError) as refusal:
        execute(Store(home / "store"), sql.format(home=home, store=home / "store"), timeout=10, max_rows=100)
    assert_a_sentence(str(refusal.value), home)


@pytest.mark.parametrize("name", ["read_text", "symlink in the store", "COPY inside", "two statements", "not SQL"])
def test_a_refusal_comes_out_of_the_process_as_it_was(home: Path, name: str) -> None:
    with pytest.raises(StoreError) as refusal:
        run_sql(home / "store", ESCAPES[name].format(home=home, store=home / "store"))
    assert_a_sentence(str(refusal.value), home)


def assert_a_sentence(message: str, home: Path) -> None:
    assert message
    assert "\n" not in message
    assert "Traceback" not in message
    assert SECRET not in message
    assert "site-packages" not in message
    assert "root:" not in message
    assert len(message) < 400


@pytest.mark.parametrize("view", ["duckdb_databases", "duckdb_views", "duckdb_tables", "pragma_database_list"])
def test_catalog_views_name_no_file_outside_the_store(home: Path, view: str) -> None:
    """They may say where the store's own files are: whoever may query the store knows where it is."""
    try:
        rows = execute(Store(home / "store"), f"FROM {view}", 10, 1000).table.to_pylist()
    except StoreError:
        return
    text = str(rows).replace(str(home / "store"), "")
    assert str(home) not in text
    assert SECRET not in text


ENDLESS = {
    "recursive CTE": "WITH RECURSIVE x(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM x) SELECT count(*) FROM x",
    "cross join": "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range * b.range = -1",
    "one long call": "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))",
}


@pytest.mark.parametrize("sql", ENDLESS.values(), ids=ENDLESS.keys())
def test_a_query_without_an_end_is_stopped(home: Path, sql: str) -> None:
    started = time.perf_counter()
    with pytest.raises(StoreError) as stopped:
        run_sql(home / "store", sql, timeout=0.5)
    assert time.perf_counter() - started < 8
    assert_a_sentence(str(stopped.value), home)
    assert isinstance(stopped.value, SqlTimeout)
    assert "stopped after 0.5 s" in str(stopped.value)


BOMBS = {
    "list of generate_series": "SELECT generate_series(1, 2000000000)",
    "list aggregate": "SELECT list(range) FROM range(2000000000)",
    "huge string": "SELECT repeat('x', 8000000000)",
    "many long strings": "SELECT repeat('x', 10000000) FROM range(1000)",
    "sort of everything": "SELECT * FROM (SELECT random() AS r FROM range(10000000000)) ORDER BY r",
}


@pytest.mark.parametrize("sql", BOMBS.values(), ids=BOMBS.keys())
def test_a_query_that_eats_memory_is_refused(home: Path, sql: str) -> None:
    with pytest.raises(StoreError) as refusal:
        run_sql(home / "store", sql, timeout=2)
    assert_a_sentence(str(refusal.value), home)


def test_an_error_in_the_middle_of_the_rows_is_one_sentence_too(home: Path) -> None:
    sql = "SELECT (CASE WHEN range = 400000 THEN 'x' ELSE '1' END)::INTEGER FROM range(1000000)"
    with pytest.raises(StoreError, match="Could not convert string 'x' to INT32") as mistake:
        run_sql(home / "store", sql, max_rows=10**6)
    assert_a_sentence(str(mistake.value), home)


LEGITIMATE = {
    "select": ("SELECT count(*) FROM runs", 1),
    "trailing semicolon": ("SELECT 1;", 1),
    "semicolon in a string": ("SELECT 'a; b'", 1),
    "comment": ("-- why\nSELECT 1 /* ; DROP VIEW acts */", 1),
    "FROM first": ("FROM features", 24),
    "VALUES": ("VALUES (1), (2)", 2),
    "CTE": ("WITH x AS (SELECT feature FROM features) SELECT * FROM x WHERE feature < 3", 3),
    "bounded recursive CTE": (
        "WITH RECURSIVE x(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM x WHERE i < 9) FROM x",
        9,
    ),
    "window": ("SELECT feature FROM features QUALIFY row_number() OVER (ORDER BY max_act) = 1", 1),
    "macro": (f"FROM top('{DICTIONARY}', 4, 5)", 5),
    "another macro": ("FROM context('text', 3, 1, 1)", None),
    "unnest": ("SELECT unnest([1, 2, 3])", 3),
    "generate_series": ("FROM generate_series(1, 4)", 4),
    "DESCRIBE": ("DESCRIBE acts", 6),
    "DESCRIBE a query": ("DESCRIBE SELECT 1 AS x", 1),
    "SHOW TABLES": ("SHOW TABLES", None),
    "SUMMARIZE": ("SUMMARIZE features", 16),
    "EXPLAIN": ("EXPLAIN SELECT * FROM acts", None),
    "EXPLAIN ANALYZE": ("EXPLAIN ANALYZE SELECT count(*) FROM acts", None),
    "PIVOT with values": (
        "FROM (SELECT feature, dead FROM features) PIVOT (count(feature) FOR dead IN (true, false))",
        1,
    ),
    "information_schema": ("SELECT table_name FROM information_schema.tables WHERE table_name = 'acts'", 1),
    "a secret's name as a word": ("SELECT 'getenv(''HOME'') and read_text' AS x", 1),
}


@pytest.mark.parametrize(("sql", "n"), LEGITIMATE.values(), ids=LEGITIMATE.keys())
def test_queries_of_the_store_run(home: Path, sql: str, n: int | None) -> None:
    table = execute(Store(home / "store"), sql, 10, 1000).table
    assert table.num_rows > 0
    assert n is None or table.num_rows == n


def test_an_answer_is_the_store_s_own(home: Path) -> None:
    sql = "SELECT * FROM features ORDER BY feature"
    result = run_sql(Store(home / "store"), sql)
    assert result.table.equals(Store(home / "store").query(sql))
    assert not result.truncated


def test_rows_beyond_the_cap_are_cut_and_reported_even_of_a_query_without_an_end(home: Path) -> None:
    result = run_sql(home / "store", "FROM range(1000000000000)", max_rows=7)
    assert (result.table.num_rows, result.truncated) == (7, True)
    exact = run_sql(home / "store", "FROM range(7)", max_rows=7)
    assert (exact.table.num_rows, exact.truncated) == (7, False)


def test_a_refusal_is_told_from_a_mistake(home: Path) -> None:
    with pytest.raises(SqlRefused, match="only SELECT is run here, not DROP"):
        run_sql(home / "store", "DROP VIEW acts")
    with pytest.raises(StoreError, match="Table with name act does not exist") as mistake:
        run_sql(home / "store", "FROM act")
    assert not isinstance(mistake.value, SqlRefused)


def test_a_damaged_run_does_not_keep_the_others_from_being_asked(tmp_path: Path) -> None:
    store = Small.random(5).write(tmp_path / "store", sealed=True)
    (store.run_path(RUN) / "manifest.json").write_text("{")
    assert run_sql(store, "SELECT status FROM runs").table.column(0).to_pylist() == ["damaged"]
