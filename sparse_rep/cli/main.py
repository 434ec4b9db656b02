"""The command line: finds the verbs in this folder and turns our errors into one sentence and an exit code."""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import sys

import typer

from sparse_rep import cli
from sparse_rep.errors import SparseRepError

NOT_VERBS = {"main", "options"}
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
PARTIAL = 3
INTERRUPTED = 130
"""Exit code that typer gives a command stopped by Ctrl-C."""


def build() -> typer.Typer:
    """An app with every verb found in `sparse_rep/cli/`, in alphabetical order."""
    app = typer.Typer(
        name="sparse-rep",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        help="Look inside models through sparse codes: train dictionaries, keep their codes in SQL, compare them in a browser.",
        epilog="Start with `sparse-rep demo`, or `sparse-rep doctor` to see what this machine offers.",
    )
    app.callback()(lambda: None)
    for module in pkgutil.iter_modules(cli.__path__):
        if module.name not in NOT_VERBS:
            importlib.import_module(f"sparse_rep.cli.{module.name}").register(app)
    return app


def main() -> None:
    """Entry point of `sparse-rep`."""
    try:
        build()()
    except SparseRepError as error:
        if os.environ.get("SPARSE_REP_TRACEBACK"):
            raise
        _say(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in DISK_FULL or os.environ.get("SPARSE_REP_TRACEBACK"):
            raise
        _say(
            f"no room left to write {error.filename or 'a file'}: free some space, and the same command goes on from there"
        )
        sys.exit(PARTIAL)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            _say("stopped; what was committed is kept, and the same command goes on from there")
        raise


def _say(text: str) -> None:
    print(f"sparse-rep: {text}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
