"""`sparse-rep verify`: read everything back and compare it with the checksums."""

from __future__ import annotations

from typing import Annotated

import typer

from sparse_rep.cli import options


def register(app: typer.Typer) -> None:
    app.command("verify", help=verify.__doc__)(verify)


def verify(
    run: Annotated[str | None, typer.Argument(help="One run; without it the whole store.")] = None,
    store: options.ExistingStore = options.DEFAULT_STORE,
    as_json: options.AsJson = False,
) -> None:
    """Read every file back and compare it with the size and sha256 of its manifest. Ends with 4 when something differs.

    A damaged unfinished run mends itself: run its job again and the damaged shards are made anew.

    Example: `sparse-rep verify --store demo-store`
    """
    from sparse_rep.errors import DataError
    from sparse_rep.progress import Reporter
    from sparse_rep.store import Store
    from sparse_rep.store import verify as verify_store

    reporter = Reporter(as_json)
    problems = verify_store(Store(store), run, report=lambda what: reporter.say(f"reading {what}"))
    for problem in problems:
        reporter.say(f"{problem.where}: {problem.what}")
    reporter.result(store=str(store), problems=[vars(problem) for problem in problems])
    if problems:
        raise DataError(f"{len(problems)} problem(s) in {store}: {problems[0].where}: {problems[0].what}")
    reporter.say("everything is as it was written")
