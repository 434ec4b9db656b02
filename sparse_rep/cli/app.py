"""`sparse-rep app`: the browser over a store."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from sparse_rep.cli.options import DEFAULT_STORE, ExistingStore
from sparse_rep.errors import ConfigError


def register(app: typer.Typer) -> None:
    app.command("app", help=browse.__doc__)(browse)


def browse(
    store: ExistingStore = DEFAULT_STORE,
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8501,
    address: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all, e.g. in a container.")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
) -> None:
    """Browse a store: its dictionaries and features, a text with what fires in it, and SQL. Runs until Ctrl-C.

    The app only reads. It has no users of its own: leave it on the loopback address, or put a proxy with authentication in front.

    Example: `sparse-rep app --store demo-store --port 8600`
    """
    from sparse_rep.store import Store

    Store(store)  # says in one sentence what is wrong with it, before a server starts
    if importlib.util.find_spec("streamlit") is None:
        raise ConfigError("the app needs streamlit: install it with `pip install 'sparse-rep[app]'`")
    command = [sys.executable, *arguments(port, address, browser)]
    environment = os.environ | {"SPARSE_REP_STORE": str(Path(store).resolve())}
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


def arguments(port: int, address: str, browser: bool) -> list[str]:
    """What Python is given: streamlit on the installed main.py. The theme comes from the config.toml beside main.py."""
    return [
        "-m",
        "streamlit",
        "run",
        str(files("sparse_rep.app.entry").joinpath("main.py")),
        f"--server.port={port}",
        f"--server.address={address}",
        f"--server.headless={'false' if browser else 'true'}",
        "--server.fileWatcherType=none",
        "--server.showEmailPrompt=false",  # it would wait at the terminal for an address
        "--browser.gatherUsageStats=false",
    ]
