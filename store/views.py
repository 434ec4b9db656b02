"""The views: one for each table of the schema, over explicit lists of files that manifests name. Never a glob.

A view is a UNION ALL of branches, one a run (and dictionary), in which run_id, dictionary_id and corpus_id are constants: a
filter on them removes branches before any file is opened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import duckdb

from sparse_rep.store.catalog import RunRecord, read_corpora, read_dictionaries
from sparse_rep.store.corpus import corpora_folder
from sparse_rep.store.manifest import FileEntry, Manifest
from sparse_rep.store.schema import PAGE_TABLES, Table, sql_text, tables

Branches = dict[str, list[str]]
"""Queries to be united, by view."""


def literal(text: str | None) -> str:
    """A string as SQL text. For identifiers and paths of our own making; users' values are bound, never spelled."""
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"


def build(con: duckdb.DuckDBPyConnection, store: Path, runs: Iterable[RunRecord]) -> None:
    """Create every view and macro on `con`."""
    runs = list(runs)
    rows(con, "runs", [run.row() for run in runs])
    rows(con, "dictionaries", read_dictionaries(store))
    branches: Branches = defaultdict(list)
    buckets: dict[int, list[str]] = defaultdict(list)
    for number, run in enumerate(run for run in runs if run.problem is None):
        assert run.manifest is not None
        code_branches(run.folder, run.manifest, branches, buckets)
        activation_branches(run.folder, run.manifest, branches)
        table_branches(run.folder, run.manifest, branches)
        if run.manifest.sealed is not None:
            index_branches(con, f"index_{number}", run.folder, run.manifest, branches)
    corpus_branches(store, branches)
    for table in tables().values():
        if table.name not in ("runs", "dictionaries"):
            create_view(con, table, branches.pop(table.name, []))
    by_token = branches.pop("acts_by_token", [])
    con.execute(f"CREATE VIEW acts_by_token AS {union(by_token) or tables()['acts'].empty}")
    for name, queries in branches.items():
        con.execute(f'CREATE VIEW "{name}" AS {" UNION ALL BY NAME ".join(queries)}')
    con.execute(f"CREATE MACRO acts_of(dictionary, feature) AS TABLE {acts_of(buckets)}")
    con.execute(sql_text("macros.sql"))


def rows(con: duckdb.DuckDBPyConnection, name: str, records: list[dict]) -> None:
    """A table from records; what a record does not hold is NULL."""
    columns = tables()[name].columns
    con.execute(f"CREATE TABLE {name} ({', '.join(f'{c.sql} {c.type}' for c in columns)})")
    if records:
        # Bound values, not Arrow: pyarrow imports pandas to convert lists, which would double the time a query takes to start.
        places = ", ".join("?" * len(columns))
        con.executemany(f"INSERT INTO {name} VALUES ({places})", [[r.get(c.name) for c in columns] for r in records])


def union(queries: list[str]) -> str:
    return " UNION ALL ".join(queries)


def create_view(con: duckdb.DuckDBPyConnection, table: Table, queries: list[str]) -> None:
    con.execute(f"CREATE VIEW {table.name} AS {union(queries) or table.empty}")


def parquet(folder: Path, files: Iterable[FileEntry], *, bucket: bool = False) -> str:
    """`read_parquet` of exactly these files."""
    listed = ", ".join(literal(str(folder / file.path)) for file in files)
    hive = "true, hive_types = {'bucket': UINTEGER, 'dictionary': VARCHAR}" if bucket else "false"
    return f"read_parquet([{listed}], hive_partitioning = {hive})"


def select(table: Table, source: str, constants: Mapping[str, str | None], condition: str = "") -> str:
    """The table's columns from a source, with some of them constant.

    Columns are qualified: an unqualified name inside a view is taken for a parameter of the macro that reads the view.
    """
    columns = (
        f"{literal(constants[c.name])}::{c.type} AS {c.sql}"
        if c.name in constants
        else f"s.{c.sql}::{c.type} AS {c.sql}"
        for c in table.columns
    )
    return f"SELECT {', '.join(columns)} FROM {source} AS s {condition}".rstrip()


def code_branches(folder: Path, manifest: Manifest, branches: Branches, buckets: dict[int, list[str]]) -> None:
    """acts, acts_by_token and, by bucket size, the sources of `acts_of`."""
    acts = tables()["acts"]
    for dictionary in manifest.dictionaries():
        constants = {"run_id": manifest.run_id, "dictionary_id": dictionary, "corpus_id": manifest.corpus_id}
        wanted = f"{literal(dictionary)} = dictionary AND s.feature = feature"
        if manifest.sealed is None:
            files = [shard.codes[dictionary] for shard in manifest.shards if dictionary in shard.codes]
            query = select(acts, parquet(folder, files), constants)
            branches["acts"].append(query)
            branches["acts_by_token"].append(query)
            buckets[0].append(select(acts, parquet(folder, files), constants, f"WHERE {wanted}"))
            continue
        codes = manifest.sealed.codes[dictionary]
        files = [codes.files[bucket] for bucket in sorted(codes.files)]
        if not files:
            continue
        query = select(acts, parquet(folder, files), constants)
        branches["acts"].append(query)
        branches["acts_by_token"].append(
            select(acts, parquet(folder, codes.by_token), constants) if codes.by_token else query
        )
        # The division must be between constants once the macro is expanded: only then are other buckets never opened.
        pruned = f"WHERE {wanted} AND s.bucket = feature // {codes.bucket_size}"
        buckets[codes.bucket_size].append(select(acts, parquet(folder, files, bucket=True), constants, pruned))


def acts_of(buckets: Mapping[int, list[str]]) -> str:
    """Body of the macro `acts_of(dictionary, feature)`."""
    queries = [query for size in sorted(buckets) for query in buckets[size]]
    inner = union(queries) or tables()["acts"].empty
    return f"SELECT run_id, corpus_id, tok, act FROM ({inner})"


def activation_branches(folder: Path, manifest: Manifest, branches: Branches) -> None:
    by_hook: dict[str, list[FileEntry]] = defaultdict(list)
    for shard in manifest.shards:
        for hook, file in shard.activations.items():
            by_hook[hook].append(file)
    for hook, files in by_hook.items():
        constants = {"run_id": manifest.run_id, "hook": hook, "corpus_id": manifest.corpus_id}
        branches["activations"].append(select(tables()["activations"], parquet(folder, files), constants))


def table_branches(folder: Path, manifest: Manifest, branches: Branches) -> None:
    """Tables that jobs wrote themselves, those that the schema does not know included."""
    files: dict[str, list[FileEntry]] = defaultdict(list)
    for shard in manifest.shards:
        for name, file in shard.tables.items():
            if name not in manifest.joined:
                files[name].append(file)
    for name, joined in manifest.joined.items():
        files[name].extend(joined)
    for name, parts in manifest.tables.items():
        files[name].extend(parts.values())
    for name, listed in files.items():
        table = tables().get(name)
        if table is None:
            source = parquet(folder, listed).removesuffix(")") + ", union_by_name = true)"
            branches[name].append(f"SELECT {literal(manifest.run_id)} AS run_id, * FROM {source}")
        elif manifest.sealed is None or name not in PAGE_TABLES:
            branches[name].append(select(table, parquet(folder, listed), {"run_id": manifest.run_id}))


def index_branches(
    con: duckdb.DuckDBPyConnection, alias: str, folder: Path, manifest: Manifest, branches: Branches
) -> None:
    assert manifest.sealed is not None
    con.execute(f"ATTACH {literal(str(folder / manifest.sealed.index.path))} AS {alias} (READ_ONLY)")
    for name in PAGE_TABLES:
        branches[name].append(select(tables()[name], f"{alias}.{name}", {"run_id": manifest.run_id}))


def corpus_branches(store: Path, branches: Branches) -> None:
    for corpus in read_corpora(store):
        folder = corpora_folder(store) / corpus.corpus_id
        for name, file in corpus.files.items():
            branches[name].append(select(tables()[name], parquet(folder, [file]), {"corpus_id": corpus.corpus_id}))
