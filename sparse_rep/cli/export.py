"""`sparse-rep export`: a portable copy of a store, or its dictionaries in the layouts of others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sparse_rep.cli import options

if TYPE_CHECKING:
    from sparse_rep.progress import Reporter
    from sparse_rep.store import Store

OF_DICTIONARIES = ("saelens", "neuronpedia")


def register(app: typer.Typer) -> None:
    app.command("export", help=export.__doc__)(export)


def export(
    out: Annotated[Path, typer.Option("--out", help="File (duckdb) or folder to make; it must not be there yet.")],
    format_: Annotated[
        Literal["duckdb", "parquet", "saelens", "neuronpedia"],
        typer.Option("--format", help="duckdb, parquet: the tables. saelens, neuronpedia: dictionaries; see above."),
    ] = "duckdb",
    runs: Annotated[
        str | None, typer.Option("--runs", help="duckdb, parquet: comma-separated run ids; all where left out.")
    ] = None,
    dictionaries: Annotated[
        str | None,
        typer.Option("--dictionaries", help="saelens, neuronpedia: comma-separated ids; all where left out."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run", help="saelens, neuronpedia: the sealed run to take numbers from; the newest if left out."
        ),
    ] = None,
    source_set: Annotated[
        str | None,
        typer.Option("--source-set", help="neuronpedia: name shared by dictionaries of several layers, e.g. res-jb."),
    ] = None,
    model_id: Annotated[
        str | None, typer.Option("--model-id", help="neuronpedia: what the model is called there, e.g. gpt2-small.")
    ] = None,
    creator: Annotated[
        str | None, typer.Option("--creator", help="neuronpedia: name to show beside the release.")
    ] = None,
    creator_id: Annotated[
        str | None,
        typer.Option("--creator-id", envvar="DEFAULT_CREATOR_ID", help="neuronpedia: user id on the instance."),
    ] = None,
    store: options.ExistingStore = options.DEFAULT_STORE,
    as_json: options.AsJson = False,
) -> None:
    """Copy a store into one file that any DuckDB (1.5 or later) opens, or hand its dictionaries on.

    **duckdb**, **parquet**: the same tables and macros, in one file or one file a table. For everyday queries no copy is
    needed: `sparse-rep sql` reads the store itself.

    **saelens**: a folder a dictionary, with a model card, that `sae_lens.SAE.load_from_disk` loads and a hub takes as it is.

    **neuronpedia**: the bulk import of Neuronpedia, with features, examples and their text from a sealed run.

    Examples: `sparse-rep export --store demo-store --out demo.duckdb`, then `duckdb demo.duckdb "from features limit 5"`

    `sparse-rep export --store demo-store --format saelens --out for-the-hub`
    """
    from sparse_rep.errors import ConfigError
    from sparse_rep.progress import Reporter
    from sparse_rep.store import Store

    reporter, opened = Reporter(as_json), Store(store)
    labels = {"source_set": source_set, "model": model_id, "creator": creator}
    named = any(value is not None for value in labels.values())
    if runs is not None and format_ in OF_DICTIONARIES:
        raise ConfigError(f"--runs is for duckdb and parquet; with --format {format_}, name one sealed --run")
    if (dictionaries is not None or run is not None) and format_ not in OF_DICTIONARIES:
        raise ConfigError("--dictionaries and --run are for --format saelens or neuronpedia; here --runs chooses")
    if named and format_ != "neuronpedia":
        raise ConfigError("--source-set, --model-id and --creator are for --format neuronpedia")
    if format_ == "duckdb" or format_ == "parquet":
        _tables(opened, out, format_, options.words(runs), reporter)
    else:
        given = {k: v for k, v in {**labels, "creator_id": creator_id}.items() if v is not None}
        _dictionaries(opened, out, format_, options.words(dictionaries), run, given, reporter)


def _tables(
    store: Store, out: Path, format_: Literal["duckdb", "parquet"], runs: tuple[str, ...] | None, reporter: Reporter
) -> None:
    from sparse_rep.store import export as export_store

    path = export_store(store, out, format=format_, runs=runs)
    n_bytes = _size(path)
    reporter.say(f"[bold]{path}[/bold]: {n_bytes / 1e6:,.1f} MB")
    reporter.result(path=str(path), bytes=n_bytes)


def _dictionaries(
    store: Store,
    out: Path,
    format_: str,
    dictionaries: tuple[str, ...] | None,
    run: str | None,
    labels: Mapping[str, Any],
    reporter: Reporter,
) -> None:
    if format_ == "saelens":
        from sparse_rep.jobs.publishing import publish_saelens

        written = publish_saelens(store, out, reporter, dictionaries=dictionaries, run=run)
        lines = [f"{w['dictionary_id']} ({w['architecture']}, rates of {w['run_id'] or 'no run'})" for w in written]
    else:
        from sparse_rep.jobs.neuronpedia import Labels, publish_neuronpedia

        written = publish_neuronpedia(store, out, reporter, dictionaries=dictionaries, run=run, labels=Labels(**labels))
        lines = [f"{w['source']}: {w['n_features']:,} features, {w['n_examples']:,} examples" for w in written]
    for line in lines:
        reporter.say(line)
    n_bytes = _size(out)
    reporter.say(f"[bold]{out}[/bold]: {n_bytes / 1e6:,.1f} MB")
    reporter.result(path=str(out), bytes=n_bytes, dictionaries=written)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)
