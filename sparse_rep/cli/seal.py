"""`sparse-rep seal`: sort a finished run by feature and compute the tables that pages read."""

from __future__ import annotations

from typing import Annotated

import typer

from sparse_rep.cli import options


def register(app: typer.Typer) -> None:
    app.command("seal", help=seal.__doc__)(seal)


def seal(
    run: Annotated[str, typer.Argument(help="Run id, or `all` for every finished run with codes.")],
    store: options.ExistingStore = options.DEFAULT_STORE,
    by_token: Annotated[
        bool, typer.Option("--by-token/--no-by-token", help="Also keep a copy sorted by token (2.8 more bytes a code).")
    ] = True,
    memory: Annotated[str, typer.Option("--memory", help="Memory it may take, e.g. 4GB.")] = "4GB",
    coact_tokens: Annotated[
        int, typer.Option("--coact-tokens", min=1, help="Tokens on which co-activation is counted.")
    ] = 65_536,
    as_json: options.AsJson = False,
) -> None:
    """Seal a finished run: its shards become files sorted by feature, with an index of top examples, histograms, samples,
    tokens and co-activations for every latent.

    A sealed run is never written again. Killed at any moment, run it again: the result is the same.

    Example: `sparse-rep seal my-run-1a2b3c4d --store demo-store`
    """
    from sparse_rep.progress import Reporter
    from sparse_rep.store import Store, StoreError
    from sparse_rep.store import seal as seal_run
    from sparse_rep.store.catalog import read_runs

    opened = Store(store)
    reporter = Reporter(as_json)
    if run == "all":
        records = read_runs(opened.path)
        wanted = [
            r.run_id for r in records if r.manifest and r.manifest.status == "complete" and r.manifest.dictionaries()
        ]
    else:
        wanted = [run]
    if not wanted:
        raise StoreError(f"{store} has no finished run that waits for its seal")
    for run_id in wanted:
        with reporter.task(f"sealing {run_id}", 1, unit="runs") as advance:
            done = 0.0

            def report(phase: str, share: float) -> None:
                nonlocal done
                if share > done:
                    advance(share - done, phase)
                    done = share

            generation = seal_run(
                opened, run_id, by_token=by_token, memory_limit=memory, coact_tokens=coact_tokens, progress=report
            )
        manifest = opened.manifest(run_id)
        size = sum(file.bytes for file in manifest.code_files())
        reporter.say(
            f"{run_id}: {manifest.n_rows:,} codes in {size:,} bytes, {size / max(manifest.n_rows, 1):.2f} a code"
        )
        reporter.result(run_id=run_id, generation=generation, n_rows=manifest.n_rows, bytes=size)
