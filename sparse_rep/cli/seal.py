"""`sparse-rep seal`: sort a finished run by feature and compute the tables that pages read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparse_rep.cli import options

if TYPE_CHECKING:
    from sparse_rep.progress import Reporter
    from sparse_rep.store import Store


def register(app: typer.Typer) -> None:
    app.command("seal", help=seal.__doc__)(seal)


def seal(
    run: Annotated[str, typer.Argument(help="Run to seal, or `all` for every run that is complete.")] = "all",
    by_token: Annotated[
        bool, typer.Option("--by-token/--no-by-token", help="Keep a second copy sorted by token: what fires here?")
    ] = True,
    memory: Annotated[str, typer.Option("--memory", help="Memory to use at most.")] = "4GB",
    store: options.ExistingStore = options.DEFAULT_STORE,
    as_json: options.AsJson = False,
) -> None:
    """Sort a finished run by feature and compute its page tables: densities, histograms, examples, co-activation.

    Sealing is what makes the app and queries by feature fast. It works in bounded memory, can be stopped and started again at
    any moment, and leaves the codes as they are. A sealed run is never written again.

    Example: `sparse-rep seal --store demo-store demo-1a2b3c4d`
    """
    from sparse_rep.progress import Reporter
    from sparse_rep.store import Store

    opened, reporter = Store(store), Reporter(as_json)
    rows = opened.query("SELECT run_id FROM runs WHERE status = 'complete' AND n_shards > 0 ORDER BY created")
    waiting = rows["run_id"].to_pylist() if run == "all" else [run]
    if not waiting:
        reporter.say("every run that is complete is sealed already")
    for run_id in waiting:
        generation = seal_run(opened, run_id, reporter, by_token=by_token, memory_limit=memory)
        facts = opened.query("SELECT n_rows, bytes FROM runs WHERE run_id = $run", run=run_id).to_pylist()[0]
        each = facts["bytes"] / max(facts["n_rows"], 1)
        reporter.say(f"[bold]{run_id}[/bold] is sealed: {facts['n_rows']:,} codes, {each:.2f} bytes a code")
        reporter.result(run_id=run_id, generation=generation, bytes_a_code=round(each, 4), **facts)


def seal_run(store: Store, run_id: str, reporter: Reporter, **options: Any) -> int:
    """Seal a run, a progress bar for each of its phases."""
    from sparse_rep.store import seal as seal_in_store

    with ExitStack() as bars:
        return seal_in_store(store, run_id, progress=_phases(reporter, bars), **options)


def _phases(reporter: Reporter, bars: ExitStack) -> Callable[[str, float], None]:
    """Takes (phase, share of it done) and keeps one bar a phase."""
    phase, done = "", 0.0
    advance: Callable[..., None] = lambda amount: None  # noqa: E731

    def progress(name: str, share: float) -> None:
        nonlocal phase, done, advance
        if name != phase:
            bars.close()
            advance = bars.enter_context(reporter.task(f"sealing: {name.rpartition(': ')[2]}", 100, unit="%"))
            phase, done = name, 0.0
        advance(100 * (share - done))
        done = share

    return progress
