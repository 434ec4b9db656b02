"""`sparse-rep verify`: read every file of a store against what its manifest says."""

from __future__ import annotations

from typing import Annotated

import typer

from sparse_rep.cli import options
from sparse_rep.errors import DataError


def register(app: typer.Typer) -> None:
    app.command("verify", help=verify.__doc__)(verify)


def verify(
    run: Annotated[
        str | None, typer.Argument(help="Only this run; every run, corpus and dictionary where left out.")
    ] = None,
    store: options.ExistingStore = options.DEFAULT_STORE,
    as_json: options.AsJson = False,
) -> None:
    """Check that every file is there, whole, and has the sha256 its manifest lists. Exit code 4 if something is wrong.

    A damaged run is left out of the views and named in the app; its other runs are unaffected. Removing the run's folder and
    running its job again makes it anew.

    Example: `sparse-rep verify --store demo-store`
    """
    from sparse_rep.progress import Reporter
    from sparse_rep.store import Store
    from sparse_rep.store import verify as verify_store

    reporter = Reporter(as_json)
    problems = verify_store(Store(store), run, report=lambda what: reporter.say(f"checking {what}"))
    for problem in problems:
        reporter.say(f"[red]{problem.where}[/red]: {problem.what}")
    reporter.result(problems=[vars(problem) for problem in problems])
    if problems:
        raise DataError(f"{len(problems)} of the store's parts are not as they were written: {problems[0].where}")
    reporter.say("everything is as it was written")
